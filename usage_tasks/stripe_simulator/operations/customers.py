"""Customers: create, retrieve, update, delete, list and search."""

from itertools import islice
from typing import Any

from usage_tasks.stripe_simulator.operations.operation import Call, Operation, merge_metadata, pick
from usage_tasks.stripe_simulator.operations.search import parse_query, search_customers
from usage_tasks.stripe_simulator.shapes.replies import equals, page, page_limit, tax_of
from usage_tasks.stripe_simulator.state.world import new_id
from usage_tasks.stripe_simulator.time import billing
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.params import EXPAND, PAGE, Spec, integer, listing, mapping, moment, record, text
from usage_tasks.stripe_simulator.wire.wire import JsonObject

_ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")
_PLAIN = ("email", "name", "phone", "description", "preferred_locales", "tax_exempt")
_FIELDS: Spec = {
    **EXPAND,
    "address": record({name: text() for name in _ADDRESS}),
    "description": text(),
    "email": text(limit=512),
    "invoice_settings": record({"default_payment_method": text()}),
    "metadata": mapping(),
    "name": text(limit=256),
    "phone": text(limit=20),
    "preferred_locales": listing(text()),
    "tax": record({"validate_location": text("deferred", "immediately", "auto")}),
    "tax_exempt": text("none", "exempt", "reverse"),
}


def _create(call: Call) -> JsonObject:
    params, clock = call.params, call.params.get("test_clock")
    if clock is not None:
        call.world.named("test_helpers.test_clock", clock, param="test_clock")
    at, identifier = call.world.now(clock), new_id("customer")
    customer: JsonObject = {
        "id": identifier,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": at,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": identifier[-8:].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": clock,
    }
    customer = _changed(customer, params)
    _check_method(call, customer)
    _check_location(customer, params)
    _save(call, customer)
    call.world.emit("customer.created", customer, at=at)
    return customer


def _changed(customer: JsonObject, params: JsonObject) -> JsonObject:
    changes = pick(params, *_PLAIN)
    if "address" in params:
        given = params["address"]
        changes["address"] = None if given is None else {**dict.fromkeys(_ADDRESS), **given}
    settings = {**customer["invoice_settings"], **(params.get("invoice_settings") or {})}
    metadata = merge_metadata(customer["metadata"], params)
    return {**customer, **changes, "invoice_settings": settings, "metadata": metadata}


def _check_method(call: Call, customer: JsonObject) -> None:
    """A default payment method is one of the customer's own."""
    name = (call.params.get("invoice_settings") or {}).get("default_payment_method")
    if name is None:
        return
    param = "invoice_settings[default_payment_method]"
    if call.world.get("payment_method", name, param=param, status=400)["customer"] != customer["id"]:
        raise ApiError(
            "The customer does not have a payment method with this ID.", code="resource_missing", param=param
        )


def _check_location(customer: JsonObject, params: JsonObject) -> None:
    immediately = (params.get("tax") or {}).get("validate_location") == "immediately"
    if immediately and tax_of(customer)["automatic_tax"] != "supported":
        raise ApiError(
            "The customer's location isn't recognized.", code="customer_tax_location_invalid", param="address"
        )


def _save(call: Call, customer: JsonObject) -> None:
    call.world.store.put(customer)
    call.world.store.index_metadata(customer)


def _retrieve(call: Call) -> JsonObject:
    return call.world.get("customer", call.subject)


def _update(call: Call) -> JsonObject:
    before = call.world.named("customer", call.subject, param="id", status=404)
    after = _changed(before, call.params)
    _check_method(call, after)
    _check_location(after, call.params)
    _save(call, after)
    call.world.emit("customer.updated", after, at=call.world.now(before["test_clock"]), before=before)
    return after


def _delete(call: Call) -> JsonObject:
    """Delete a customer and end their subscriptions. The remaining object only shows that it is deleted."""
    world, customer = call.world, call.world.get("customer", call.subject)
    if customer.get("deleted"):
        return customer
    at = world.now(customer["test_clock"])
    for subscription in world.subscriptions_of(customer["id"]):
        billing.cancel(world, subscription, at=at, changes={}, invoice_now=False)
    deleted = {"id": customer["id"], "object": "customer", "deleted": True}
    _save(call, deleted)
    world.emit("customer.deleted", customer, at=at)
    return deleted


def _list(call: Call) -> JsonObject:
    same = equals(call.params, "email", "test_clock")

    def keep(customer: JsonObject) -> bool:
        return not customer.get("deleted") and same(customer)

    return page(call.world, "customer", call.params, url=call.path, keep=keep)


def _search(call: Call) -> JsonObject:
    """Search, blind to the newest customers while it lags; a page's token is the place it goes on from."""
    limit, token = page_limit(call.params), call.params.get("page") or "0"
    if not token.isdecimal():
        raise ApiError("Invalid page.", param="page")
    first = int(token)
    matching = search_customers(call.world.store, parse_query(call.params["query"]))
    found = (customer for customer in matching if _is_indexed(call, customer))
    data = list(islice(found, first, first + limit + 1))
    more = len(data) > limit
    next_page: Any = str(first + limit) if more else None
    reply = {"object": "search_result", "data": data[:limit], "has_more": more}
    return {**reply, "next_page": next_page, "url": call.path}


def _is_indexed(call: Call, customer: JsonObject) -> bool:
    age_seconds = call.world.now(customer["test_clock"]) - customer["created"]
    return bool(age_seconds >= call.world.switches.searching.lag_seconds)


OPERATIONS = (
    Operation(method="POST", path="/v1/customers", spec={**_FIELDS, "test_clock": text()}, handle=_create),
    Operation(
        method="GET",
        path="/v1/customers",
        spec={**PAGE, "created": moment(), "email": text(), "test_clock": text()},
        handle=_list,
    ),
    Operation(
        method="GET",
        path="/v1/customers/search",
        spec={**EXPAND, "query": text(required=True), "limit": integer(), "page": text()},
        handle=_search,
    ),
    Operation(method="GET", path="/v1/customers/{id}", spec=EXPAND, handle=_retrieve),
    Operation(method="POST", path="/v1/customers/{id}", spec=_FIELDS, handle=_update),
    Operation(method="DELETE", path="/v1/customers/{id}", spec={}, handle=_delete),
)
