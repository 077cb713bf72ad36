"""Read the events that webhooks bring: of each, its type, its object and its time."""

import json
from datetime import UTC, datetime
from typing import Any

from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.events import EventNotice

_THIN = "v2.core.event"
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError, RecursionError)


def parse_event(event_id: str, payload: str) -> EventNotice:
    """Read an event's JSON, snapshot or thin. Raises InvalidInputError if it is not an event of that id."""
    thin = False
    try:
        event = json.loads(payload)
        thin = isinstance(event, dict) and event.get("object") == _THIN
        stated_id = event["id"]
        notice = _read_thin(event_id, event) if thin else _read_snapshot(event_id, event)
    except _UNREADABLE as error:
        kind = "a thin event of Stripe in JSON" if thin else "a Stripe event in JSON"
        raise InvalidInputError("payload", f"{len(payload)} characters", kind) from error
    if stated_id != event_id:
        raise InvalidInputError("event_id", event_id, "the id in the payload")
    return notice


def _read_snapshot(event_id: str, event: Any) -> EventNotice:
    kind, object_id = event["type"], event["data"]["object"].get("id")
    created_at = datetime.fromtimestamp(int(event["created"]), tz=UTC)
    if not _is_word(kind) or not (object_id is None or _is_word(object_id)):
        raise ValueError("type or id")
    return EventNotice(event_id=event_id, type=kind, object_id=object_id, created_at=created_at)


def _read_thin(event_id: str, event: Any) -> EventNotice:
    """Read a notice: its id is all that is needed to fetch the event when it is applied."""
    related = event.get("related_object")
    kind, object_id = event["type"], None if related is None else related["id"]
    object_id = None if object_id == "" else object_id  # it names nothing; refused, the event would be lost
    created_at = datetime.fromisoformat(event["created"])
    if created_at.tzinfo is None or not _is_word(kind) or not (object_id is None or _is_word(object_id)):
        raise ValueError("type, id or time")
    return EventNotice(event_id=event_id, type=kind, object_id=object_id, created_at=created_at)


def _is_word(value: object) -> bool:
    """Return True for text that a database can hold and a log can show."""
    return isinstance(value, str) and value != "" and value.isprintable()
