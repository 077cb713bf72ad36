"""Read what a webhook brought: what matters of an event of either kind."""

import json
from datetime import datetime

from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.events import EventNotice
from usage_tasks.services.inbox.apply_events import parse_event


def read_event(event_id: str, payload: str) -> EventNotice:
    """Read an event's JSON; raise InvalidInputError where it is no event of that id."""
    if _is_thin(payload):
        return _read_thin(event_id, payload)
    event = parse_event(event_id, payload)
    return EventNotice(event_id=event.event_id, type=event.type, object_id=event.object_id, created_at=event.created_at)


def _is_thin(payload: str) -> bool:
    try:
        event = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return isinstance(event, dict) and event.get("object") == "v2.core.event"


def _read_thin(event_id: str, payload: str) -> EventNotice:
    """Read a thin event: only a notice, so that nothing but its id is needed to fetch the whole when it is applied."""
    try:
        event = json.loads(payload)
        related = event.get("related_object")
        object_id = None if related is None else related["id"]
        created_at = datetime.fromisoformat(event["created"])
        words = [event["type"], *([] if object_id is None else [object_id])]
        if created_at.tzinfo is None or not all(isinstance(word, str) and word.isprintable() for word in words):
            raise ValueError("type, id or time")
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidInputError("payload", f"{len(payload)} characters", "a thin event of Stripe in JSON") from error
    if event["id"] != event_id:
        raise InvalidInputError("event_id", event_id, "the id that stands in the payload")
    return EventNotice(event_id=event_id, type=words[0], object_id=object_id, created_at=created_at)
