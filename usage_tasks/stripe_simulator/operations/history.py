"""Events that happened, and test clocks that make time pass for some customers only."""

import operator
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import islice
from urllib.parse import urlencode

from usage_tasks.stripe_simulator.operations.operation import Call, Operation
from usage_tasks.stripe_simulator.shapes.replies import page, page_limit
from usage_tasks.stripe_simulator.state.world import THIN_EVENT, iso, new_id
from usage_tasks.stripe_simulator.time.billing import TIME_MAX, can_advance, run_due
from usage_tasks.stripe_simulator.wire.errors import ApiError, missing_object
from usage_tasks.stripe_simulator.wire.params import EXPAND, PAGE, Spec, boolean, integer, listing, moment, record, text
from usage_tasks.stripe_simulator.wire.wire import JsonObject

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
    delivered = call.params.get("delivery_success")
    if pattern and types:
        raise ApiError("You may pass either type or types, but not both.", param="types")

    def keep(event: JsonObject) -> bool:
        kind = event["type"]
        if event["created"] < since:
            return False
        if delivered is not None and delivered != _is_delivered(call, event):
            return False
        return (pattern is None or fnmatchcase(kind, pattern)) and (not types or kind in types)

    return page(call.world, "event", call.params, url=call.path, keep=keep)


def _is_delivered(call: Call, event: JsonObject) -> bool:
    """Whether no delivery of an event is still pending or has failed for good."""
    sql = "SELECT count(*) FROM delivery WHERE event = :event AND state <> 'delivered'"
    row = call.world.store.row(sql, event=event["id"])
    return row is None or row[0] == 0


def _list_thin_events(call: Call) -> JsonObject:
    """Thin events newest first, by the second version's way of paging: the next page is an address."""
    params = call.params
    limit, token, since = page_limit(params), params.get("page") or "", iso(_events_since(call))
    if token and not token.isdecimal():
        raise ApiError("Invalid page.", param="page")
    types, about, created = params.get("types"), params.get("object_id"), params.get("created") or {}

    def keep(event: JsonObject) -> bool:
        at = event["created"]
        return (
            at >= since
            and (not types or event["type"] in types)
            and about in {None, (event.get("related_object") or {}).get("id")}
            and all(_BOUNDS[name](at, iso(_unix(bound))) for name, bound in created.items() if bound is not None)
        )

    found = call.world.store.scan(THIN_EVENT)
    first = int(token or 0)
    data = list(islice((event for event in found if keep(event)), first, first + limit + 1))
    asked: list[tuple[str, str]] = [
        ("limit", str(limit)),
        *((f"types[{n}]", kind) for n, kind in enumerate(types or ())),
    ]
    asked += [("object_id", about)] if about else []
    asked += [(f"created[{name}]", bound) for name, bound in created.items()]
    following = f"{call.path}?{urlencode([*asked, ('page', str(first + limit))])}" if len(data) > limit else None
    return {"data": data[:limit], "next_page_url": following, "previous_page_url": None}


_BOUNDS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def _unix(text_: str) -> int:
    try:
        return int(datetime.fromisoformat(text_).timestamp())
    except ValueError as error:
        raise ApiError(f"Invalid timestamp: {text_}", param="created") from error


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


_EVENTS: Spec = {
    **PAGE,
    "created": moment(),
    "delivery_success": boolean(),
    "type": text(),
    "types": listing(text()),
}
_THIN_EVENTS: Spec = {
    "created": record({bound: text() for bound in _BOUNDS}),
    "limit": integer(),
    "object_id": text(),
    "page": text(),
    "types": listing(text()),
}
_CLOCK: Spec = {**EXPAND, "frozen_time": integer(required=True), "name": text(limit=300)}
_ADVANCE: Spec = {**EXPAND, "frozen_time": integer(required=True)}
_CLOCKS = "/v1/test_helpers/test_clocks"

OPERATIONS = (
    Operation(method="GET", path="/v1/events", spec=_EVENTS, handle=_list_events),
    Operation(method="GET", path="/v1/events/{id}", spec=EXPAND, handle=_retrieve_event),
    Operation(method="GET", path="/v2/core/events", spec=_THIN_EVENTS, handle=_list_thin_events),
    Operation(method="GET", path="/v2/core/events/{id}", spec={}, handle=_retrieve_thin_event),
    Operation(method="POST", path=_CLOCKS, spec=_CLOCK, handle=_create_clock),
    Operation(method="GET", path=f"{_CLOCKS}/{{id}}", spec=EXPAND, handle=_retrieve_clock),
    Operation(method="POST", path=f"{_CLOCKS}/{{id}}/advance", spec=_ADVANCE, handle=_advance_clock),
)
