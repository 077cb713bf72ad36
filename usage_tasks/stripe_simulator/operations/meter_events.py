"""The events that meters are fed with: counted, refused, or accepted and complained of later."""

from datetime import timedelta
from decimal import Decimal, InvalidOperation
from uuid import uuid4

from usage_tasks.stripe_simulator.operations import alerts
from usage_tasks.stripe_simulator.operations.meters import find_meter
from usage_tasks.stripe_simulator.operations.operation import Call, Operation
from usage_tasks.stripe_simulator.state.world import World
from usage_tasks.stripe_simulator.time.meter_errors import MeterEventError, collect
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.params import EXPAND, Spec, integer, mapping, text, within_bounds
from usage_tasks.stripe_simulator.wire.wire import JsonObject

EVENT_AGE_MAX = timedelta(days=35)
EVENT_AHEAD_MAX = timedelta(minutes=5)
IDENTIFIER_KEPT = timedelta(hours=24)
_INSERT = (
    "INSERT INTO meter_event (identifier, received, meter, customer, timestamp, value)"
    " VALUES (:identifier, :received, :meter, :customer, :timestamp, :value)"
)
_KNOWN = "SELECT 1 FROM meter_event WHERE identifier = :identifier AND received > :since"


def _create_event(call: Call) -> JsonObject:
    world, params, received = call.world, call.params, call.world.now()
    identifier = params.get("identifier") or str(uuid4())
    _check_identifier(world, identifier, received=received)
    counted: JsonObject = {"meter": "", "customer": "", "timestamp": received, "value": "0"}
    try:
        counted |= _counted(world, params)
    except MeterEventError as error:
        if not world.switches.metering.errors_later and not error.later:
            raise
        collect(world, error, request=world.idempotency_key or identifier)
    # A bad event is stored too, for no meter: its identifier has been used.
    world.store.execute(_INSERT, identifier=identifier, received=received, **counted)
    if counted["meter"]:
        reading = {"meter": counted["meter"], "customer": counted["customer"], "timestamp": counted["timestamp"]}
        alerts.tell(world, **reading, at=received)
    given = params.get("timestamp")
    event = {"object": "billing.meter_event", "event_name": params["event_name"], "identifier": identifier}
    timestamp = counted["timestamp"] if given is None else given
    return {**event, "created": received, "livemode": False, "payload": params["payload"] or {}, "timestamp": timestamp}


def _check_identifier(world: World, identifier: str, *, received: int) -> None:
    since = received - int(IDENTIFIER_KEPT.total_seconds())
    if world.store.row(_KNOWN, identifier=identifier, since=since) is not None:
        raise ApiError(f"An event already exists with identifier {identifier}.")


def _counted(world: World, params: JsonObject) -> JsonObject:
    """Return the event that the meter counts. Raises MeterEventError for an event that it cannot count."""
    payload = params["payload"] or {}
    meter = _meter(world, params["event_name"])
    customer = _customer(world, meter, payload)
    now = world.now(customer["test_clock"])
    timestamp = now if params.get("timestamp") is None else params["timestamp"]
    _check_timestamp(meter, timestamp, now)
    return {
        "meter": meter["id"],
        "customer": customer["id"],
        "timestamp": timestamp,
        "value": _value(meter, payload),
    }


def _meter(world: World, event_name: str) -> JsonObject:
    meter = find_meter(world, event_name, status="active")
    if meter is not None:
        return meter
    archived = find_meter(world, event_name, status="inactive")
    reason, identifier = ("no_meter", "") if archived is None else ("archived_meter", archived["id"])
    message = f"No active meter found for event name {event_name}."
    raise MeterEventError(message, reason=reason, meter=identifier, param="event_name")


def _customer(world: World, meter: JsonObject, payload: JsonObject) -> JsonObject:
    key, identifier = meter["customer_mapping"]["event_payload_key"], meter["id"]
    param = f"payload[{key}]"
    if not payload.get(key):
        message = f"The payload must name a customer by the key {key}."
        raise MeterEventError(message, reason="meter_event_no_customer_defined", meter=identifier, param=param)
    rejected = world.switches.metering.reject.get(payload[key])
    if rejected is not None:
        message = f"Rejected by the switch: {rejected}"
        raise MeterEventError(message, reason=rejected, meter=identifier, param=param, later=True)
    try:
        return world.named("customer", payload[key], param=param)
    except ApiError as error:
        reason, code = "meter_event_customer_not_found", error.body["error"]["code"]
        raise MeterEventError(str(error), reason=reason, meter=identifier, param=param, code=code) from error


def _check_timestamp(meter: JsonObject, timestamp: int, now: int) -> None:
    if timestamp < now - EVENT_AGE_MAX.total_seconds():
        reason, message = "timestamp_too_far_in_past", "The timestamp must be within the past 35 calendar days."
    elif timestamp > now + EVENT_AHEAD_MAX.total_seconds():
        reason, message = "timestamp_in_future", "The timestamp must be at most 5 minutes in the future."
    else:
        return
    raise MeterEventError(message, reason=reason, meter=meter["id"], param="timestamp")


def _value(meter: JsonObject, payload: JsonObject) -> str:
    """The event's value as text; a meter that counts needs none."""
    key = meter["value_settings"]["event_payload_key"]
    if meter["default_aggregation"]["formula"] == "count" and key not in payload:
        return "1"
    reason, message = "meter_event_invalid_value", f"The payload's {key} must be a number."
    try:
        value = Decimal(payload.get(key, ""))
        if within_bounds(value):
            return str(value)
        if value.is_finite():
            reason, message = "meter_event_value_too_many_digits", f"The payload's {key} has too many digits."
    except InvalidOperation:
        pass
    raise MeterEventError(message, reason=reason, meter=meter["id"], param=f"payload[{key}]")


_EVENT: Spec = {
    **EXPAND,
    "event_name": text(required=True, limit=100),
    "identifier": text(limit=100),
    "payload": mapping(required=True, keys=100),
    "timestamp": integer(),
}

OPERATIONS = (Operation(method="POST", path="/v1/billing/meter_events", spec=_EVENT, handle=_create_event),)
