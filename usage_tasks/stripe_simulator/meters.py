"""Meters, the events they are fed with, and the summaries of what they counted."""

from datetime import timedelta
from decimal import Decimal, InvalidOperation
from itertools import islice
from uuid import uuid4

from usage_tasks.stripe_simulator.errors import ApiError
from usage_tasks.stripe_simulator.metering import aggregate, windows
from usage_tasks.stripe_simulator.operation import Call, Operation
from usage_tasks.stripe_simulator.params import EXPAND, PAGE, Spec, integer, mapping, record, text, within_bounds
from usage_tasks.stripe_simulator.replies import envelope, equals, page, page_limit
from usage_tasks.stripe_simulator.wire import JsonObject
from usage_tasks.stripe_simulator.world import World, new_id

EVENT_AGE_MAX = timedelta(days=35)
EVENT_AHEAD_MAX = timedelta(minutes=5)
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
    if _active_meter(world, params["event_name"]) is not None:
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


def _active_meter(world: World, event_name: str) -> JsonObject | None:
    found = [
        meter
        for meter in world.store.scan("billing.meter")
        if meter["event_name"] == event_name and meter["status"] == "active"
    ]
    return found[0] if found else None


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


def _create_event(call: Call) -> JsonObject:
    world, params, payload = call.world, call.params, call.params["payload"] or {}
    meter = _active_meter(world, params["event_name"])
    if meter is None:
        raise ApiError(f"No active meter found for event name {params['event_name']}.", param="event_name")
    key = meter["customer_mapping"]["event_payload_key"]
    if not payload.get(key):
        raise ApiError(f"The payload must name a customer by the key {key}.", param=f"payload[{key}]")
    customer = world.named("customer", payload[key], param=f"payload[{key}]")
    now = world.now(customer["test_clock"])
    timestamp = now if params.get("timestamp") is None else params["timestamp"]
    _check_timestamp(timestamp, now)
    identifier = params.get("identifier") or str(uuid4())
    stored = world.store.execute(
        "INSERT INTO meter_event (identifier, meter, customer, timestamp, value)"
        " VALUES (:identifier, :meter, :customer, :timestamp, :value) ON CONFLICT (identifier) DO NOTHING",
        identifier=identifier,
        meter=meter["id"],
        customer=customer["id"],
        timestamp=timestamp,
        value=_value(meter, payload),
    )
    if not stored:
        raise ApiError(f"An event already exists with identifier {identifier}.")
    event = {"object": "billing.meter_event", "event_name": params["event_name"], "identifier": identifier}
    return {**event, "created": now, "livemode": False, "payload": payload, "timestamp": timestamp}


def _check_timestamp(timestamp: int, now: int) -> None:
    if timestamp < now - EVENT_AGE_MAX.total_seconds():
        raise ApiError("The timestamp must be within the past 35 calendar days.", param="timestamp")
    if timestamp > now + EVENT_AHEAD_MAX.total_seconds():
        raise ApiError("The timestamp must be at most 5 minutes in the future.", param="timestamp")


def _value(meter: JsonObject, payload: JsonObject) -> str:
    """The event's value as text; a meter that counts needs none."""
    key = meter["value_settings"]["event_payload_key"]
    if meter["default_aggregation"]["formula"] == "count" and key not in payload:
        return "1"
    try:
        value = Decimal(payload.get(key, ""))
    except InvalidOperation as error:
        raise ApiError(f"The payload's {key} must be a number.", param=f"payload[{key}]") from error
    if not within_bounds(value):
        raise ApiError(f"The payload's {key} is too large or too finely divided.", param=f"payload[{key}]")
    return str(value)


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


_EVENT: Spec = {
    **EXPAND,
    "event_name": text(required=True, limit=100),
    "identifier": text(limit=100),
    "payload": mapping(required=True, keys=100),
    "timestamp": integer(),
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
    Operation(method="POST", path="/v1/billing/meter_events", spec=_EVENT, handle=_create_event),
)
