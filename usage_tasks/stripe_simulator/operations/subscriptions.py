"""Subscriptions: create, retrieve, update, list and cancel."""

from usage_tasks.stripe_simulator.operations.operation import Call, Operation, merge_metadata, pick
from usage_tasks.stripe_simulator.operations.subscription_items import (
    CHANGED_ITEM,
    NEW_ITEM,
    change_items,
    check_prices,
    new_item,
)
from usage_tasks.stripe_simulator.shapes.documents import empty_subscription
from usage_tasks.stripe_simulator.shapes.replies import envelope, page, tax_of
from usage_tasks.stripe_simulator.state.world import World, new_id
from usage_tasks.stripe_simulator.time import billing
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.params import EXPAND, PAGE, Spec, boolean, listing, mapping, moment, record, text
from usage_tasks.stripe_simulator.wire.wire import JsonObject

_TAX = record({"enabled": boolean(required=True)})
_CHANGES: Spec = {
    **EXPAND,
    "automatic_tax": _TAX,
    "cancel_at_period_end": boolean(),
    "default_payment_method": text(),
    "description": text(limit=500),
    "metadata": mapping(),
}
_NEW: Spec = {
    **_CHANGES,
    "billing_mode": record({"type": text("classic", "flexible", required=True)}),
    "currency": text(),
    "customer": text(required=True),
    "items": listing(record(NEW_ITEM), required=True),
    "off_session": boolean(),
}


def _create(call: Call) -> JsonObject:
    world, params = call.world, call.params
    customer = world.named("customer", params["customer"], param="customer")
    at, identifier = world.now(customer["test_clock"]), new_id("subscription")
    _check_tax(customer, params)
    prices = check_prices(world, params["items"], currency=params.get("currency"))
    _check_currency(world, customer, prices[0]["currency"])
    items = [new_item(identifier, price, given, at=at) for price, given in zip(prices, params["items"], strict=True)]
    subscription = {
        **empty_subscription(),
        "id": identifier,
        "billing_cycle_anchor": at,
        "created": at,
        "start_date": at,
        "customer": customer["id"],
        "currency": prices[0]["currency"],
        "items": envelope(items, url=f"/v1/subscription_items?subscription={identifier}"),
        "test_clock": customer["test_clock"],
        "billing_mode": _billing_mode(params, at=at),
        **_changes(empty_subscription(), params, at=at, period_ends_at=items[0]["current_period_end"]),
    }
    if customer["currency"] != subscription["currency"]:
        world.store.put({**customer, "currency": subscription["currency"]})
    billing.start(world, subscription, at=at)
    return world.get("subscription", identifier)


def _check_currency(world: World, customer: JsonObject, currency: str) -> None:
    """Refuse a second currency while something of the customer's is in another one."""
    others = {one["currency"] for one in world.subscriptions_of(customer["id"]) if one["ended_at"] is None} - {currency}
    if others:
        message = (
            "You cannot combine currencies on a single customer. This customer has an active subscription, subscription"
            f" schedule, discount, quote, or invoice item with currency {others.pop()}."
        )
        raise ApiError(message)


def _billing_mode(params: JsonObject, *, at: int) -> JsonObject:
    if (params.get("billing_mode") or {}).get("type") == "classic":
        return {"type": "classic", "flexible": None}
    return {"type": "flexible", "flexible": {"proration_discounts": "included"}, "updated_at": at}


def _check_tax(customer: JsonObject, params: JsonObject) -> None:
    wanted = (params.get("automatic_tax") or {}).get("enabled", False)
    if wanted and tax_of(customer)["automatic_tax"] != "supported":
        message = "The customer's location isn't recognized. Set a valid customer address to calculate tax."
        raise ApiError(message, code="customer_tax_location_invalid", param="automatic_tax[enabled]")


def _changes(current: JsonObject, params: JsonObject, *, at: int, period_ends_at: int) -> JsonObject:
    changes = pick(params, "default_payment_method", "description")
    changes["metadata"] = merge_metadata(current["metadata"], params)
    if params.get("automatic_tax"):
        enabled = params["automatic_tax"]["enabled"]
        liability = {"type": "self"} if enabled else None
        changes["automatic_tax"] = {"disabled_reason": None, "enabled": enabled, "liability": liability}
    if params.get("cancel_at_period_end") is not None:
        ends = params["cancel_at_period_end"]
        reason = "cancellation_requested" if ends else None
        details = {**current["cancellation_details"], "reason": reason}
        times = {"cancel_at": period_ends_at if ends else None, "canceled_at": at if ends else None}
        changes |= {"cancel_at_period_end": ends, "cancellation_details": details, **times}
    return changes


def _retrieve(call: Call) -> JsonObject:
    return call.world.get("subscription", call.subject)


def _update(call: Call) -> JsonObject:
    world, before = call.world, call.world.get("subscription", call.subject)
    if before["ended_at"] is not None:
        raise ApiError("A canceled subscription can only update its metadata and cancellation_details.")
    customer = world.get("customer", before["customer"])
    _check_tax(customer, call.params)
    at = world.now(before["test_clock"])
    period_ends_at = before["items"]["data"][0]["current_period_end"]
    after = {**before, **_changes(before, call.params, at=at, period_ends_at=period_ends_at)}
    if call.params.get("items"):
        after["items"] = {**before["items"], "data": change_items(world, before, call.params, at=at)}
    world.store.put(after)
    world.emit("customer.subscription.updated", after, at=at, before=before)
    return after


def _list(call: Call) -> JsonObject:
    """List subscriptions: without a status all except canceled ones, as Stripe does; with `all` every one."""
    status, price = call.params.get("status"), call.params.get("price")

    def keep(subscription: JsonObject) -> bool:
        over = subscription["status"] in {"canceled", "incomplete_expired"}
        shown = (
            not over
            if status is None
            else status == "all" or (over if status == "ended" else subscription["status"] == status)
        )
        return shown and (price is None or any(item["price"]["id"] == price for item in subscription["items"]["data"]))

    customer = call.params.get("customer")
    return page(call.world, "subscription", call.params, url=call.path, keep=keep, customer=customer)


def _cancel(call: Call) -> JsonObject:
    world, params = call.world, call.params
    before = world.get("subscription", call.subject)
    if before["ended_at"] is not None:
        raise ApiError(f"No such subscription: '{call.subject}'", status=404, code="resource_missing", param="id")
    if params.get("prorate"):
        raise ApiError("Prorations are not simulated.", param="prorate")
    details = {**before["cancellation_details"], **(params.get("cancellation_details") or {})}
    changes = {"cancellation_details": {**details, "reason": "cancellation_requested"}}
    at, invoice_now = world.now(before["test_clock"]), bool(params.get("invoice_now"))
    return billing.cancel(world, before, at=at, changes=changes, invoice_now=invoice_now)


_LIST: Spec = {
    **PAGE,
    "created": moment(),
    "customer": text(),
    "price": text(),
    "status": text(
        "active",
        "all",
        "canceled",
        "ended",
        "incomplete",
        "incomplete_expired",
        "past_due",
        "paused",
        "trialing",
        "unpaid",
    ),
}
_CANCELLATION: Spec = {
    **EXPAND,
    "cancellation_details": record({"comment": text(), "feedback": text()}),
    "invoice_now": boolean(),
    "prorate": boolean(),
}
_UPDATE: Spec = {
    **_CHANGES,
    "items": listing(record(CHANGED_ITEM)),
    "proration_behavior": text("always_invoice", "create_prorations", "none"),
}
_ONE = "/v1/subscriptions/{id}"

OPERATIONS = (
    Operation(method="POST", path="/v1/subscriptions", spec=_NEW, handle=_create),
    Operation(method="GET", path="/v1/subscriptions", spec=_LIST, handle=_list),
    Operation(method="GET", path=_ONE, spec=EXPAND, handle=_retrieve),
    Operation(method="POST", path=_ONE, spec=_UPDATE, handle=_update),
    Operation(method="DELETE", path=_ONE, spec=_CANCELLATION, handle=_cancel),
)
