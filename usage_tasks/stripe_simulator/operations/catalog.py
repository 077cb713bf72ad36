"""Products and prices: create, retrieve and list."""

from decimal import Decimal

from usage_tasks.stripe_simulator.operations.operation import Call, Operation, pick
from usage_tasks.stripe_simulator.shapes.replies import equals, page
from usage_tasks.stripe_simulator.state.world import new_id, render
from usage_tasks.stripe_simulator.time.tiers import TIER, read_tiers
from usage_tasks.stripe_simulator.wire.errors import ApiError, missing_parameter
from usage_tasks.stripe_simulator.wire.params import (
    EXPAND,
    PAGE,
    Spec,
    boolean,
    decimal,
    integer,
    listing,
    mapping,
    moment,
    record,
    text,
)
from usage_tasks.stripe_simulator.wire.wire import JsonObject, plain

_PRODUCT: Spec = {
    **EXPAND,
    "active": boolean(),
    "description": text(limit=40000),
    "id": text(),
    "metadata": mapping(),
    "name": text(required=True),
    "unit_label": text(),
}
_RECURRING: Spec = {
    "interval": text("day", "week", "month", "year", required=True),
    "interval_count": integer(),
    "meter": text(),
    "usage_type": text("licensed", "metered"),
}
_PRICE: Spec = {
    **EXPAND,
    "active": boolean(),
    "billing_scheme": text("per_unit", "tiered"),
    "currency": text(required=True),
    "lookup_key": text(limit=200),
    "metadata": mapping(),
    "nickname": text(),
    "product": text(),
    "product_data": record({"name": text(required=True), "metadata": mapping(), "unit_label": text()}),
    "recurring": record(_RECURRING),
    "tax_behavior": text("exclusive", "inclusive", "unspecified"),
    "tiers": listing(record(TIER)),
    "tiers_mode": text("graduated", "volume"),
    "unit_amount": integer(),
    "unit_amount_decimal": decimal(),
}


def _create_product(call: Call) -> JsonObject:
    return _new_product(call, call.params)


def _new_product(call: Call, params: JsonObject) -> JsonObject:
    world, at = call.world, call.world.now()
    identifier = params.get("id") or new_id("product")
    if world.store.find("product", identifier) is not None:
        raise ApiError("Product already exists.", code="resource_already_exists", param="id")
    nothing = ("default_price", "description", "package_dimensions", "shippable", "statement_descriptor", "tax_code")
    product: JsonObject = {
        "id": identifier,
        "object": "product",
        "active": True,
        "created": at,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        **dict.fromkeys((*nothing, "unit_label", "url")),
        "updated": at,
        **pick(params, "active", "description", "name", "unit_label"),
        "metadata": params.get("metadata") or {},
    }
    world.store.put(product)
    world.emit("product.created", product, at=at)
    return product


def _create_price(call: Call) -> JsonObject:
    world, params, at = call.world, call.params, call.world.now()
    product = _product_of(call)
    recurring = _recurring(call)
    price: JsonObject = {
        "id": new_id("price"),
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": at,
        "currency": params["currency"].lower(),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "nickname": None,
        "product": product,
        "recurring": recurring,
        "tax_behavior": "unspecified",
        "transform_quantity": None,
        "type": "recurring" if recurring else "one_time",
        **pick(params, "active", "lookup_key", "nickname", "tax_behavior"),
        **_charges(params, recurring),
        "metadata": params.get("metadata") or {},
    }
    world.store.put(price)
    world.emit("price.created", price, at=at)
    return render(price)


def _product_of(call: Call) -> str:
    params = call.params
    if params.get("product_data"):
        return str(_new_product(call, params["product_data"])["id"])
    if not params.get("product"):
        raise missing_parameter("product")
    return str(call.world.named("product", params["product"], param="product")["id"])


def _recurring(call: Call) -> JsonObject | None:
    given = call.params.get("recurring")
    if given is None:
        return None
    usage_type, meter = given.get("usage_type") or "licensed", given.get("meter")
    if usage_type == "metered":
        if meter is None:
            raise missing_parameter("recurring[meter]")
        call.world.named("billing.meter", meter, param="recurring[meter]")
    elif meter is not None:
        raise ApiError("A meter is only for prices with usage_type metered.", param="recurring[meter]")
    count = given.get("interval_count") or 1
    if count < 1:
        raise ApiError("Invalid interval_count: must be positive", param="recurring[interval_count]")
    return {"interval": given["interval"], "interval_count": count, "meter": meter, "usage_type": usage_type}


def _charges(params: JsonObject, recurring: JsonObject | None) -> JsonObject:
    """Return the cost of a unit: one amount, or tiers, which are for metered prices only."""
    if params.get("billing_scheme") != "tiered":
        for name in ("tiers", "tiers_mode"):
            if params.get(name):
                raise ApiError(f"{name} needs billing_scheme tiered.", param=name)
        return {"tiers_mode": None, **_amount(params)}
    if recurring is None or recurring["usage_type"] != "metered":
        raise ApiError("Tiers are simulated for metered prices only.", param="billing_scheme")
    for name in ("tiers", "tiers_mode"):
        if not params.get(name):
            raise missing_parameter(name)
    for name in ("unit_amount", "unit_amount_decimal"):
        if params.get(name) is not None:
            raise ApiError(f"A tiered price takes no {name}.", param=name)
    tiers = {"tiers": read_tiers(params["tiers"]), "tiers_mode": params["tiers_mode"]}
    return {"billing_scheme": "tiered", "unit_amount": None, "unit_amount_decimal": None, **tiers}


def _amount(params: JsonObject) -> JsonObject:
    """Exactly one of the two amounts; `unit_amount` is null when the decimal isn't whole."""
    given = (params.get("unit_amount"), params.get("unit_amount_decimal"))
    amounts = [Decimal(amount) for amount in given if amount is not None]
    if len(amounts) != 1:
        raise ApiError("Specify exactly one of unit_amount and unit_amount_decimal.", param="unit_amount")
    (amount,) = amounts
    if amount < 0:
        raise ApiError("Invalid non-negative integer", code="parameter_invalid_integer", param="unit_amount")
    unit_amount = int(amount) if amount == amount.to_integral_value() else None
    return {"unit_amount": unit_amount, "unit_amount_decimal": plain(amount)}


def _retrieve_product(call: Call) -> JsonObject:
    return call.world.get("product", call.subject)


def _retrieve_price(call: Call) -> JsonObject:
    return render(call.world.get("price", call.subject))


def _list_prices(call: Call) -> JsonObject:
    same, keys = equals(call.params, "active", "currency", "product", "type"), call.params.get("lookup_keys")

    def keep(price: JsonObject) -> bool:
        return same(price) and (not keys or price["lookup_key"] in keys)

    return page(call.world, "price", call.params, url=call.path, keep=keep)


_PRICES: Spec = {
    **PAGE,
    "active": boolean(),
    "created": moment(),
    "currency": text(),
    "lookup_keys": listing(text()),
    "product": text(),
    "type": text("one_time", "recurring"),
}

OPERATIONS = (
    Operation(method="POST", path="/v1/products", spec=_PRODUCT, handle=_create_product),
    Operation(method="GET", path="/v1/products/{id}", spec=EXPAND, handle=_retrieve_product),
    Operation(method="POST", path="/v1/prices", spec=_PRICE, handle=_create_price),
    Operation(method="GET", path="/v1/prices", spec=_PRICES, handle=_list_prices),
    Operation(method="GET", path="/v1/prices/{id}", spec=EXPAND, handle=_retrieve_price),
)
