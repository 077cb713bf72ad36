"""Meters, and the summaries of what they counted."""

from itertools import islice

from usage_tasks.stripe_simulator.operations.operation import Call, Operation
from usage_tasks.stripe_simulator.shapes.replies import envelope, equals, page, page_limit
from usage_tasks.stripe_simulator.state.world import World, new_id
from usage_tasks.stripe_simulator.time.metering import aggregate, windows
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.params import EXPAND, PAGE, Spec, integer, record, text
from usage_tasks.stripe_simulator.wire.wire import JsonObject

_WINDOWS = {"hour": 3600, "day": 86400}
_MINUTE = 60
_METER: Spec = {
    **EXPAND,
    "customer_mapping": record({"event_payload_key": text(required=True), "type": text("by_id", required=True)}),
    "default_aggregation": record({"formula": text("count", "last", "sum", required=True)}, required=True),
    "display_name": text(required=True, limit=250),
    "event_name": text(required=True, limit=100),
    "value_settings": record({"event_payload_key": text(required=True)}),
}


def _create_meter(call: Call) -> JsonObject:
    world, params, at = call.world, call.params, call.world.now()
    if find_meter(world, params["event_name"], status="active") is not None:
        message = f"An active meter already exists with event name {params['event_name']}."
        raise ApiError(message, param="event_name")
    meter: JsonObject = {
        "id": new_id("billing.meter"),
        "object": "billing.meter",
        "created": at,
        "customer_mapping": params.get("customer_mapping")
        or {"event_payload_key": "stripe_customer_id", "type": "by_id"},
        "default_aggregation": params["default_aggregation"],
        "display_name": params["display_name"],
        "event_name": params["event_name"],
        "event_time_window": None,
        "livemode": False,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": at,
        "value_settings": params.get("value_settings") or {"event_payload_key": "value"},
    }
    world.store.put(meter)
    world.emit("billing.meter.created", meter, at=at)
    return meter


def find_meter(world: World, event_name: str, *, status: str) -> JsonObject | None:
    """The newest meter of a status that takes these events."""
    meters = world.store.scan("billing.meter")
    return next((meter for meter in meters if (meter["event_name"], meter["status"]) == (event_name, status)), None)


def _retrieve_meter(call: Call) -> JsonObject:
    return call.world.get("billing.meter", call.subject)


def _list_meters(call: Call) -> JsonObject:
    return page(call.world, "billing.meter", call.params, url=call.path, keep=equals(call.params, "status"))


def _deactivate_meter(call: Call) -> JsonObject:
    world, at = call.world, call.world.now()
    before = world.get("billing.meter", call.subject)
    if before["status"] == "inactive":
        raise ApiError("The meter is already inactive.")
    changes = {"status": "inactive", "updated": at, "status_transitions": {"deactivated_at": at}}
    after = {**before, **changes}
    world.store.put(after)
    world.emit("billing.meter.deactivated", after, at=at, before=before)
    return after


def _list_summaries(call: Call) -> JsonObject:
    """The whole span as one summary, or one for each window that has events, newest first."""
    world, params = call.world, call.params
    meter = world.get("billing.meter", call.subject)
    customer = world.named("customer", params["customer"], param="customer")["id"]
    start, end = params["start_time"], params["end_time"]
    size = _WINDOWS.get(params.get("value_grouping_window") or "", 0)
    for name, moment in (("start_time", start), ("end_time", end)):
        if moment % (size or _MINUTE):
            raise ApiError(
                f"{name} must be aligned with the {params.get('value_grouping_window') or 'minute'}.", param=name
            )
    if end <= start:
        raise ApiError("end_time must be after start_time.", param="end_time")
    begins = windows(world.store, meter, customer=customer, start=start, end=end, size=size) if size else [start]
    spans = [(begin, begin + size if size else end) for begin in begins]
    found = (_summary(world, meter, customer, *span) for span in spans)
    after, limit = params.get("starting_after"), page_limit(params)
    if after is not None:
        found = (one for one in found if one["start_time"] < int(after.rpartition("_")[2]))
    data = list(islice(found, limit + 1))
    return envelope(data[:limit], url=call.path, has_more=len(data) > limit)


def _summary(world: World, meter: JsonObject, customer: str, start: int, end: int) -> JsonObject:
    value = aggregate(world.store, meter, customer=customer, start=start, end=end)
    return {
        "id": f"mtrusg_{customer}_{start}",
        "object": "billing.meter_event_summary",
        # A JSON number by Stripe's description: the only place where a fraction leaves as a float.
        "aggregated_value": int(value) if value == value.to_integral_value() else float(value),
        "end_time": end,
        "livemode": False,
        "meter": meter["id"],
        "start_time": start,
    }


_SUMMARIES: Spec = {
    **EXPAND,
    "customer": text(required=True),
    "start_time": integer(required=True),
    "end_time": integer(required=True),
    "limit": integer(),
    "starting_after": text(),
    "value_grouping_window": text("hour", "day"),
}
_METERS: Spec = {**PAGE, "status": text("active", "inactive")}
_ONE = "/v1/billing/meters/{id}"

OPERATIONS = (
    Operation(method="POST", path="/v1/billing/meters", spec=_METER, handle=_create_meter),
    Operation(method="GET", path="/v1/billing/meters", spec=_METERS, handle=_list_meters),
    Operation(method="GET", path=_ONE, spec=EXPAND, handle=_retrieve_meter),
    Operation(method="POST", path=f"{_ONE}/deactivate", spec=EXPAND, handle=_deactivate_meter),
    Operation(method="GET", path=f"{_ONE}/event_summaries", spec=_SUMMARIES, handle=_list_summaries),
)
