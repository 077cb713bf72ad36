"""The inbox: every event of Stripe's that arrived, once, and whether it was applied.

Only the reference to the object is kept of an event: handlers ask Stripe for the object, so no personal data is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.events import EventNotice, EventSource
from usage_tasks.storage.leases import bounded, is_due, is_free
from usage_tasks.storage.rows import execute, fetch, fetch_one


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxEvent:
    """An event as far as it matters: its type, the object it is about, and when it was made."""

    event_id: str
    type: str
    object_id: str | None
    created_at: datetime
    attempts: int = 0
    claimed_until: datetime | None = None


def store_event(connection: Connection, event: EventNotice) -> bool:
    """Store an event unless it stands already; return True if it is new."""
    return store_events(connection, [event], source=EventSource.WEBHOOK) == 1


def store_events(connection: Connection, events: Sequence[EventNotice], *, source: EventSource) -> int:
    """Store the events that do not stand already; return how many are new. In one order, so that none waits twice."""
    statement = """
        INSERT INTO stripe_event (event_id, type, object_id, created_at, source)
        SELECT t.event_id, t.type, t.object_id, t.created_at, :source
        FROM unnest(CAST(:ids AS text[]), CAST(:types AS text[]), CAST(:objects AS text[]),
                    CAST(:times AS timestamptz[])) AS t(event_id, type, object_id, created_at)
        ORDER BY t.event_id
        ON CONFLICT (event_id) DO NOTHING
    """
    return execute(
        connection,
        statement,
        ids=[event.event_id for event in events],
        types=[event.type for event in events],
        objects=[event.object_id for event in events],
        times=[event.created_at for event in events],
        source=source.value,
    )


def find_latest(connection: Connection) -> datetime | None:
    """Return when the newest event that is known was made."""
    latest: datetime | None = fetch_one(connection, "SELECT max(created_at) AS latest FROM stripe_event").latest
    return latest


def claim_events(connection: Connection, *, limit: int, lease: timedelta) -> Sequence[InboxEvent]:
    """Lease up to `limit` events that are due: those never tried first: a bad one delays no other."""
    statement = f"""
        UPDATE stripe_event AS held
        SET claimed_until = clock_timestamp() + :lease, attempts = held.attempts + 1
        FROM (
            SELECT event_id FROM stripe_event
            WHERE state = 'pending' AND {is_due()}
                AND {is_free()}
            ORDER BY attempts, created_at, received_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ) AS due
        WHERE held.event_id = due.event_id
        RETURNING held.event_id, held.type, held.object_id, held.created_at, held.attempts, held.claimed_until
    """
    claimed = [InboxEvent(**row._mapping) for row in fetch(connection, statement, limit=limit, lease=bounded(lease))]
    return sorted(claimed, key=lambda event: (event.attempts, event.created_at))


def mark_applied(connection: Connection, event_id: str, *, outcome: str) -> bool:
    """Settle an event, in the transaction of its effect; return True if this call was the first to."""
    return (
        execute(
            connection,
            """
            UPDATE stripe_event
            SET state = 'applied', applied_at = clock_timestamp(), claimed_until = NULL, outcome = :outcome
            WHERE event_id = :event AND state NOT IN ('applied', 'dropped')
            """,
            event=event_id,
            outcome=outcome,
        )
        == 1
    )


# A worker whose lease ran out may end late: what it applied is true, but no other result of it counts any more.
_HELD: Final = "event_id = :event AND state = 'pending' AND claimed_until = :lease"


def mark_retry(connection: Connection, claimed: InboxEvent, *, after: timedelta, reason: str) -> None:
    """Free an event that could not be applied for now, if the lease is still this worker's."""
    execute(
        connection,
        f"""
        UPDATE stripe_event
        SET next_attempt_at = clock_timestamp() + :after, claimed_until = NULL, outcome = :reason
        WHERE {_HELD}
        """,
        event=claimed.event_id,
        lease=claimed.claimed_until,
        after=after,
        reason=reason,
    )


def mark_parked(connection: Connection, claimed: InboxEvent, *, reason: str) -> None:
    """Set an event aside that can never be applied, if the lease is still this worker's."""
    execute(
        connection,
        f"UPDATE stripe_event SET state = 'parked', claimed_until = NULL, outcome = :reason WHERE {_HELD}",
        event=claimed.event_id,
        lease=claimed.claimed_until,
        reason=reason,
    )
