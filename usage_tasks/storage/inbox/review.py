"""The inbox as an operator sees it: events by state, one event with its twins, and actions on parked events."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.storage.rows import fetch

_COLUMNS = """
    event_id, type, object_id, created_at, received_at, source, state, attempts, next_attempt_at, applied_at, outcome
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """An event and its result; `outcome` is the reason if it is parked or postponed."""

    event_id: str
    type: str
    object_id: str | None
    created_at: datetime
    received_at: datetime
    source: str
    state: str
    attempts: int
    next_attempt_at: datetime
    applied_at: datetime | None
    outcome: str | None


def list_events(connection: Connection, *, state: str | None, kind: str | None, limit: int) -> Sequence[EventRow]:
    """List events, newest first, of one state and type where those are given."""
    statement = f"""
        SELECT {_COLUMNS} FROM stripe_event
        WHERE (CAST(:state AS text) IS NULL OR state = :state) AND (CAST(:kind AS text) IS NULL OR type = :kind)
        ORDER BY created_at DESC, event_id LIMIT :limit
    """
    return [EventRow(**row._mapping) for row in fetch(connection, statement, state=state, kind=kind, limit=limit)]


def find_event(connection: Connection, event_id: str) -> EventRow | None:
    """Find one event."""
    rows = fetch(connection, f"SELECT {_COLUMNS} FROM stripe_event WHERE event_id = :event", event=event_id)
    return next((EventRow(**row._mapping) for row in rows), None)


def list_twins(connection: Connection, event: EventRow, *, limit: int) -> Sequence[str]:
    """List other events of the same fact: Stripe may send two events of one fact."""
    statement = """
        SELECT event_id FROM stripe_event
        WHERE object_id = :object AND type = :type AND created_at = :created AND event_id <> :event
        ORDER BY event_id LIMIT :limit
    """
    rows = fetch(
        connection,
        statement,
        object=event.object_id,
        type=event.type,
        created=event.created_at,
        event=event.event_id,
        limit=limit,
    )
    return [row.event_id for row in rows]


def lock_chosen(
    connection: Connection, ids: Sequence[str] | None, *, states: Sequence[str], limit: int
) -> Sequence[EventRow]:
    """Lock events of some states, the oldest first: those named, else any; who applies one now is waited for."""
    statement = f"""
        SELECT {_COLUMNS} FROM stripe_event
        WHERE state = ANY (CAST(:states AS text[]))
            AND (CAST(:ids AS text[]) IS NULL OR event_id = ANY (CAST(:ids AS text[])))
        ORDER BY created_at, event_id LIMIT :limit FOR UPDATE
    """
    named = None if ids is None else list(ids)
    return [
        EventRow(**row._mapping) for row in fetch(connection, statement, ids=named, states=list(states), limit=limit)
    ]


def make_due(connection: Connection, ids: Sequence[str]) -> Sequence[str]:
    """Make events due again, as if they had just arrived. Return their ids."""
    statement = """
        UPDATE stripe_event
        SET state = 'pending', attempts = 0, next_attempt_at = clock_timestamp(), claimed_until = NULL,
            applied_at = NULL, outcome = NULL
        WHERE event_id = ANY (CAST(:ids AS text[])) RETURNING event_id
    """
    return sorted(row.event_id for row in fetch(connection, statement, ids=list(ids)))


def mark_dropped(connection: Connection, ids: Sequence[str], *, reason: str) -> Sequence[str]:
    """Give events up. The rows stay, or Stripe's list would bring them back; return their ids."""
    statement = """
        UPDATE stripe_event SET state = 'dropped', claimed_until = NULL, outcome = :reason
        WHERE event_id = ANY (CAST(:ids AS text[])) RETURNING event_id
    """
    return sorted(row.event_id for row in fetch(connection, statement, ids=list(ids), reason=reason))
