"""The items of a subscription: what each charges for, added and taken away while the subscription goes on."""

from usage_tasks.stripe_simulator.state.world import World, new_id, render
from usage_tasks.stripe_simulator.time import billing
from usage_tasks.stripe_simulator.time.periods import period_end
from usage_tasks.stripe_simulator.wire.errors import ApiError, missing_parameter
from usage_tasks.stripe_simulator.wire.params import Spec, boolean, integer, mapping, text
from usage_tasks.stripe_simulator.wire.wire import JsonObject

ITEMS_MAX = 20
NEW_ITEM: Spec = {"metadata": mapping(), "price": text(required=True), "quantity": integer()}
CHANGED_ITEM: Spec = {**NEW_ITEM, "deleted": boolean(), "id": text(), "price": text()}


def check_prices(world: World, items: list[JsonObject], *, currency: str | None) -> list[JsonObject]:
    """The prices of the items: active, recurring, of one currency and one interval."""
    if not items:
        raise missing_parameter("items")
    if len(items) > ITEMS_MAX:
        raise ApiError(f"A subscription can have up to {ITEMS_MAX} items.", param="items")
    prices = []
    for index, item in enumerate(items):
        param = f"items[{index}][price]"
        if item.get("price") is None:
            raise missing_parameter(param)
        price = world.named("price", item["price"], param=param)
        if not price["active"] or price["type"] != "recurring":
            raise ApiError("The price must be active and recurring.", param=param)
        if price["recurring"]["usage_type"] == "metered" and "quantity" in item:
            raise ApiError("A metered price takes no quantity.", param=f"items[{index}][quantity]")
        prices.append(render(price))
    rhythms = {(price["recurring"]["interval"], price["recurring"]["interval_count"]) for price in prices}
    currencies = {price["currency"] for price in prices} | ({currency} if currency else set())
    if len(rhythms) > 1 or len(currencies) > 1:
        raise ApiError("All prices must have the same currency and the same interval.", param="items")
    return prices


def new_item(subscription: str, price: JsonObject, given: JsonObject, *, at: int) -> JsonObject:
    """An item whose first period begins at an instant."""
    rhythm = price["recurring"]
    ends_at = period_end(anchor=at, start=at, interval=rhythm["interval"], count=rhythm["interval_count"])
    item: JsonObject = {
        "id": new_id("subscription_item"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": at,
        "current_period_end": ends_at,
        "current_period_start": at,
        "discounts": [],
        "metadata": given.get("metadata") or {},
        "price": price,
        "subscription": subscription,
        "tax_rates": [],
    }
    if not billing.metered(item):
        quantity = given.get("quantity")
        item["quantity"] = 1 if quantity is None else quantity
    return item


def change_items(world: World, subscription: JsonObject, params: JsonObject, *, at: int) -> list[JsonObject]:
    """The items after a change: new ones share the period of the others, and one of no meter is not prorated."""
    items = {item["id"]: item for item in subscription["items"]["data"]}
    period = {name: next(iter(items.values()))[name] for name in ("current_period_start", "current_period_end")}
    for index, given in enumerate(params["items"]):
        if given.get("id") is None:
            (price,) = check_prices(world, [given], currency=subscription["currency"])
            changed = {**new_item(subscription["id"], price, given, at=at), **period}
            items[changed["id"]] = changed
        elif given["id"] not in items or not given.get("deleted"):
            raise ApiError("Of an item that is there only its end is simulated.", param=f"items[{index}][id]")
        else:
            changed = items.pop(given["id"])
        if not billing.metered(changed) and params.get("proration_behavior") != "none":
            raise ApiError("Prorations are not simulated.", param="proration_behavior")
    if not items:
        raise ApiError("A subscription must have at least one item.", param="items")
    return list(items.values())
