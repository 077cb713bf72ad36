"""How replies are put together: lists with paging and filters, and expanded fields."""

from collections.abc import Callable, Iterable
from itertools import islice

from usage_tasks.stripe_simulator.state.store import INTEGER_MAX
from usage_tasks.stripe_simulator.state.world import World, render
from usage_tasks.stripe_simulator.wire.errors import ApiError, missing_object
from usage_tasks.stripe_simulator.wire.wire import JsonObject

LIMIT_DEFAULT = 10
LIMIT_MAX = 100
EXPAND_DEPTH_MAX = 4
_EXPANDABLE = {
    "customer": "customer",
    "subscription": "subscription",
    "latest_invoice": "invoice",
    "invoice": "invoice",
    "price": "price",
    "product": "product",
    "charge": "charge",
    "latest_charge": "charge",
    "payment_intent": "payment_intent",
    "payment_method": "payment_method",
    "default_payment_method": "payment_method",
    "refund": "refund",
    "default_price": "price",
    "test_clock": "test_helpers.test_clock",
}
Filter = Callable[[JsonObject], bool]


def envelope(data: Iterable[JsonObject], *, url: str, has_more: bool = False) -> JsonObject:
    return {"object": "list", "data": list(data), "has_more": has_more, "url": url}


def page_limit(params: JsonObject) -> int:
    limit = params.get("limit") or LIMIT_DEFAULT
    if not 1 <= limit <= LIMIT_MAX:
        raise ApiError(
            f"Invalid limit: must be between 1 and {LIMIT_MAX}", code="parameter_invalid_integer", param="limit"
        )
    return int(limit)


def page(
    world: World, kind: str, params: JsonObject, *, url: str, keep: Filter, customer: str | None = None
) -> JsonObject:
    """One page of a type's objects, newest first, after or before a named one."""
    limit = page_limit(params)
    since, until = _bounds(params.get("created"))
    below, above = _cursor(world, kind, params, "starting_after"), _cursor(world, kind, params, "ending_before")
    found = world.store.scan(
        kind,
        customer=customer,
        below=INTEGER_MAX if below is None else below,
        above=-1 if above is None else above,
        since=since,
        until=until,
        oldest_first=above is not None,
    )
    kept = list(islice((one for one in found if keep(one)), limit + 1))
    data = kept[:limit] if above is None else kept[:limit][::-1]
    return envelope(map(render, data), url=url, has_more=len(kept) > limit)


def _cursor(world: World, kind: str, params: JsonObject, name: str) -> int | None:
    identifier = params.get(name)
    if identifier is None:
        return None
    position = world.store.position(kind, identifier)
    if position is None:
        raise missing_object(kind, identifier, param=name, status=400)
    return position


def _bounds(created: int | JsonObject | None) -> tuple[int, int]:
    """The first and the last second of a filter on time, both included."""
    if isinstance(created, int):
        return created, created
    bounds = created or {}
    since = max(bounds.get("gte", -INTEGER_MAX), bounds.get("gt", -INTEGER_MAX) + 1)
    until = min(bounds.get("lte", INTEGER_MAX), bounds.get("lt", INTEGER_MAX) - 1)
    return since, until


def equals(params: JsonObject, *names: str) -> Filter:
    """Keep the objects whose fields equal the parameters that were given."""
    wanted = {name: params[name] for name in names if params.get(name) is not None}
    return lambda one: all(one.get(name) == value for name, value in wanted.items())


def expand(world: World, subject: JsonObject, paths: Iterable[str]) -> JsonObject:
    """Replace ids by the objects they name, and add what is only shown when asked for."""
    shown = subject
    for path in paths:
        parts = path.split(".")
        if len(parts) > EXPAND_DEPTH_MAX:
            raise ApiError(f"You cannot expand more than {EXPAND_DEPTH_MAX} levels of a property: {path}")
        shown = _expand(world, shown, parts, path)
    return shown


def _expand(world: World, subject: JsonObject, parts: list[str], path: str) -> JsonObject:
    if subject.get("deleted"):
        return subject
    head, rest = parts[0], parts[1:]
    value = _included(world, subject, head)
    if isinstance(value, str) and head in _EXPANDABLE:
        value = render(world.get(_EXPANDABLE[head], value))
    if head not in subject and value is None:
        message = f"This property cannot be expanded ({head}), or it is not simulated."
        raise ApiError(message, param="expand")
    if rest and isinstance(value, dict):
        value = _expand(world, value, rest, path)
    elif rest and isinstance(value, list):
        value = [_expand(world, one, rest, path) for one in value]
    elif isinstance(value, str) or (not rest and isinstance(value, int | bool)):
        raise ApiError(f"This property cannot be expanded ({path}), or it is not simulated.", param="expand")
    return {**subject, head: value}


def _included(world: World, subject: JsonObject, name: str) -> object:
    """The field of an object, or what Stripe adds to it when the field is expanded."""
    match subject.get("object"), name:
        case "customer", "subscriptions":
            url = f"/v1/customers/{subject['id']}/subscriptions"
            return envelope(world.subscriptions_of(subject["id"]), url=url)
        case "customer", "tax":
            return tax_of(subject)
        case "invoice", "payments":
            return world.get("invoice", subject["id"])["payments"]
        case "price", "tiers":
            return world.get("price", subject["id"]).get("tiers")
    return subject.get(name)


def tax_of(customer: JsonObject) -> JsonObject:
    """Where the customer is for taxes: an address with a country (and in the US a postal code) is recognized."""
    address = customer.get("address") or {}
    country, postal_code = address.get("country"), address.get("postal_code")
    known = bool(country) and (country != "US" or bool(postal_code))
    location = {"country": country, "source": "billing_address", "state": address.get("state")} if known else None
    status = "supported" if known else "unrecognized_location"
    return {"automatic_tax": status, "ip_address": None, "location": location, "provider": "stripe"}
