"""Events that happened, and test clocks that make time pass for some customers only."""

from fnmatch import fnmatchcase

from usage_tasks.stripe_simulator.billing import TIME_MAX, can_advance, run_due
from usage_tasks.stripe_simulator.errors import ApiError, missing_object
from usage_tasks.stripe_simulator.operation import Call, Operation
from usage_tasks.stripe_simulator.params import EXPAND, PAGE, Spec, integer, listing, moment, text
from usage_tasks.stripe_simulator.replies import page
from usage_tasks.stripe_simulator.wire import JsonObject
from usage_tasks.stripe_simulator.world import THIN_EVENT, iso, new_id

CLOCK_KEPT_SECONDS = 30 * 86400
EVENT_KEPT_SECONDS = 30 * 86400


def _retrieve_event(call: Call) -> JsonObject:
    event = call.world.get("event", call.subject)
    if event["created"] < _events_since(call):
        raise missing_object("event", call.subject)
    return event


def _retrieve_thin_event(call: Call) -> JsonObject:
    event = call.world.get(THIN_EVENT, call.subject)
    if event["created"] < iso(_events_since(call)):
        raise missing_object("event", call.subject)
    return event


def _events_since(call: Call) -> int:
    """The creation of the oldest event that is still shown; test clocks don't hurry it."""
    return call.world.now() - EVENT_KEPT_SECONDS


def _list_events(call: Call) -> JsonObject:
    """Events newest first, of one type (`invoice.*` is a pattern) or of several."""
    pattern, types, since = call.params.get("type"), call.params.get("types"), _events_since(call)
    if pattern and types:
        raise ApiError("You may pass either type or types, but not both.", param="types")

    def keep(event: JsonObject) -> bool:
        kind = event["type"]
        if event["created"] < since:
            return False
        return (pattern is None or fnmatchcase(kind, pattern)) and (not types or kind in types)

    return page(call.world, "event", call.params, url=call.path, keep=keep)


def _create_clock(call: Call) -> JsonObject:
    world, params = call.world, call.params
    at, frozen_time = world.now(), params["frozen_time"]
    if not 0 <= frozen_time <= TIME_MAX:
        raise ApiError("Invalid timestamp.", param="frozen_time")
    clock: JsonObject = {
        "id": new_id("test_helpers.test_clock"),
        "object": "test_helpers.test_clock",
        "created": at,
        "deletes_after": at + CLOCK_KEPT_SECONDS,
        "frozen_time": frozen_time,
        "livemode": False,
        "name": params.get("name"),
        "status": "ready",
        "status_details": {},
    }
    world.store.execute("INSERT INTO clock (id, frozen_time) VALUES (:id, :at)", id=clock["id"], at=frozen_time)
    world.store.put(clock)
    world.emit("test_helpers.test_clock.created", clock, at=at)
    return clock


def _retrieve_clock(call: Call) -> JsonObject:
    return call.world.get("test_helpers.test_clock", call.subject)


def _advance_clock(call: Call) -> JsonObject:
    """Make time pass at once: unlike Stripe's, the reply comes when all that was due is done."""
    world, until = call.world, call.params["frozen_time"]
    clock = world.get("test_helpers.test_clock", call.subject)
    if until <= clock["frozen_time"]:
        raise ApiError("You can only advance a test clock forward.", param="frozen_time")
    if not can_advance(clock["frozen_time"], until):
        raise ApiError("You cannot advance a test clock that far.", param="frozen_time")
    world.emit("test_helpers.test_clock.advancing", {**clock, "status": "advancing"}, at=world.now())
    while not run_due(world, clock["id"], until=until):
        pass
    clock["frozen_time"] = until
    world.store.put(clock)
    world.emit("test_helpers.test_clock.ready", clock, at=world.now())
    return clock


_EVENTS: Spec = {**PAGE, "created": moment(), "type": text(), "types": listing(text())}
_CLOCK: Spec = {**EXPAND, "frozen_time": integer(required=True), "name": text(limit=300)}
_ADVANCE: Spec = {**EXPAND, "frozen_time": integer(required=True)}
_CLOCKS = "/v1/test_helpers/test_clocks"

OPERATIONS = (
    Operation(method="GET", path="/v1/events", spec=_EVENTS, handle=_list_events),
    Operation(method="GET", path="/v1/events/{id}", spec=EXPAND, handle=_retrieve_event),
    Operation(method="GET", path="/v2/core/events/{id}", spec={}, handle=_retrieve_thin_event),
    Operation(method="POST", path=_CLOCKS, spec=_CLOCK, handle=_create_clock),
    Operation(method="GET", path=f"{_CLOCKS}/{{id}}", spec=EXPAND, handle=_retrieve_clock),
    Operation(method="POST", path=f"{_CLOCKS}/{{id}}/advance", spec=_ADVANCE, handle=_advance_clock),
)
