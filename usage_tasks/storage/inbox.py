"""The inbox: every event of Stripe's that arrived, once, and whether it was applied.

Of an event only what says where to look is kept: handlers ask Stripe for the object, so nothing personal is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.storage.rows import execute, fetch, fetch_one


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxEvent:
    """An event as far as it matters: its type, the object it is about, and when it was made."""

    event_id: str
    type: str
    object_id: str | None
    created_at: datetime
    attempts: int = 0


def store_event(connection: Connection, event: InboxEvent) -> bool:
    """Store an event unless it stands already; tell whether it is new."""
    statement = """
        INSERT INTO stripe_event (event_id, type, object_id, created_at)
        VALUES (:event_id, :type, :object_id, :created_at) ON CONFLICT (event_id) DO NOTHING
    """
    return (
        execute(
            connection,
            statement,
            event_id=event.event_id,
            type=event.type,
            object_id=event.object_id,
            created_at=event.created_at,
        )
        == 1
    )


def claim_events(connection: Connection, *, limit: int, lease: timedelta) -> Sequence[InboxEvent]:
    """Lease up to `limit` events that are due: those never tried first: a bad one delays no other."""
    statement = """
        UPDATE stripe_event AS held
        SET claimed_until = clock_timestamp() + :lease, attempts = held.attempts + 1
        FROM (
            SELECT event_id FROM stripe_event
            WHERE state = 'pending' AND next_attempt_at <= clock_timestamp()
                AND (claimed_until IS NULL OR claimed_until < clock_timestamp())
            ORDER BY attempts, created_at, received_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ) AS due
        WHERE held.event_id = due.event_id
        RETURNING held.event_id, held.type, held.object_id, held.created_at, held.attempts
    """
    claimed = [InboxEvent(**row._mapping) for row in fetch(connection, statement, limit=limit, lease=lease)]
    return sorted(claimed, key=lambda event: (event.attempts, event.created_at))


def mark_applied(connection: Connection, event_id: str, *, outcome: str) -> bool:
    """Settle an event, in the transaction of its effect; tell whether this call was the first to."""
    return (
        execute(
            connection,
            """
            UPDATE stripe_event
            SET state = 'applied', applied_at = clock_timestamp(), claimed_until = NULL, outcome = :outcome
            WHERE event_id = :event AND state <> 'applied'
            """,
            event=event_id,
            outcome=outcome,
        )
        == 1
    )


def mark_retry(connection: Connection, event_id: str, *, after: timedelta, reason: str) -> None:
    """Free an event that could not be applied for now."""
    execute(
        connection,
        """
        UPDATE stripe_event
        SET next_attempt_at = clock_timestamp() + :after, claimed_until = NULL, outcome = :reason
        WHERE event_id = :event AND state = 'pending'
        """,
        event=event_id,
        after=after,
        reason=reason,
    )


def mark_parked(connection: Connection, event_id: str, *, reason: str) -> None:
    """Set an event aside that can never be applied."""
    execute(
        connection,
        """
        UPDATE stripe_event SET state = 'parked', claimed_until = NULL, outcome = :reason
        WHERE event_id = :event AND state = 'pending'
        """,
        event=event_id,
        reason=reason,
    )


def count_by_state(connection: Connection) -> dict[str, int]:
    """Count the events of each state."""
    row = fetch_one(
        connection,
        """
        SELECT count(*) FILTER (WHERE state = 'pending') AS pending,
               count(*) FILTER (WHERE state = 'applied') AS applied,
               count(*) FILTER (WHERE state = 'parked') AS parked
        FROM stripe_event
        """,
    )
    return {"pending": row.pending, "applied": row.applied, "parked": row.parked}
