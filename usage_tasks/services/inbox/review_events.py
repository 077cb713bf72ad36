"""An operator's review of events: apply them again, or drop them. Each change leaves an audit row."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.storage.inbox import review
from usage_tasks.storage.inbox.review import EventRow
from usage_tasks.storage.operations import audit

REVIEW_MAX: Final = 1_000
REPLAYABLE: Final = ("pending", "applied", "parked", "dropped")
DROPPABLE: Final = ("pending", "parked")
SET_ASIDE: Final = ("parked",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """How many events were meant, and which; at most REVIEW_MAX at once."""

    events: int
    ids: Sequence[str]


def plan_replay(connection: Connection, ids: Sequence[str] | None) -> Reviewed:
    """Return the events that a replay would make due."""
    return _summary(_choose(connection, ids, REPLAYABLE))


def replay_events(connection: Connection, ids: Sequence[str] | None, *, at: datetime, actor: Actor) -> Reviewed:
    """Make the events that are named due again, or all that are parked. No effect counts twice."""
    chosen = _choose(connection, ids, REPLAYABLE)
    review.make_due(connection, [event.event_id for event in chosen])
    _note(connection, "stripe_event.replay", chosen, at=at, actor=actor, reason=None)
    return _summary(chosen)


def plan_drop(connection: Connection, ids: Sequence[str] | None) -> Reviewed:
    """Return the events that would be dropped."""
    return _summary(_choose(connection, ids, DROPPABLE))


def drop_events(
    connection: Connection, ids: Sequence[str] | None, *, reason: str, at: datetime, actor: Actor
) -> Reviewed:
    """Give up the events that are named, or all that are parked; what was applied is not undone so."""
    chosen = _choose(connection, ids, DROPPABLE)
    review.mark_dropped(connection, [event.event_id for event in chosen], reason=reason)
    _note(connection, "stripe_event.drop", chosen, at=at, actor=actor, reason=reason)
    return _summary(chosen)


def _choose(connection: Connection, ids: Sequence[str] | None, states: Sequence[str]) -> Sequence[EventRow]:
    allowed = SET_ASIDE if ids is None else states
    return review.lock_chosen(connection, ids, states=allowed, limit=REVIEW_MAX)


def _summary(chosen: Sequence[EventRow]) -> Reviewed:
    return Reviewed(events=len(chosen), ids=[event.event_id for event in chosen])


def _note(
    connection: Connection,
    action: str,
    chosen: Sequence[EventRow],
    *,
    at: datetime,
    actor: Actor,
    reason: str | None,
) -> None:
    for event in chosen:
        details = {"event_id": event.event_id, "type": event.type, "was": event.state, "outcome": event.outcome}
        if reason is not None:
            details["reason"] = reason
        audit.append_audit(connection, at=at, actor=actor, action=action, attribution_id=None, details=details)
