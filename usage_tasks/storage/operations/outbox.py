"""What the platform must hear, stored with the change that causes it and sent afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection

from usage_tasks.storage.rows import as_json, execute, fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One message to the platform: a Celery task's name and its arguments."""

    outbox_id: int
    key: str
    task: str
    payload: dict[str, object]


def announce(connection: Connection, *, key: str, task: str, payload: Mapping[str, object]) -> bool:
    """Store what the platform must hear, with the change that causes it; once a key. Tell whether it is new."""
    statement = """
        INSERT INTO outbox (key, task, payload) VALUES (:key, :task, CAST(:payload AS jsonb))
        ON CONFLICT (key) DO NOTHING
    """
    return execute(connection, statement, key=key, task=task, payload=as_json(payload)) == 1


def claim_announcements(connection: Connection, *, limit: int, lease: timedelta) -> Sequence[Announcement]:
    """Lease up to `limit` announcements that are not sent yet, oldest first."""
    statement = """
        UPDATE outbox AS held SET claimed_until = clock_timestamp() + :lease
        FROM (
            SELECT outbox_id FROM outbox
            WHERE dispatched_at IS NULL AND (claimed_until IS NULL OR claimed_until < clock_timestamp())
            ORDER BY outbox_id LIMIT :limit FOR UPDATE SKIP LOCKED
        ) AS due
        WHERE held.outbox_id = due.outbox_id
        RETURNING held.outbox_id, held.key, held.task, held.payload
    """
    claimed = [Announcement(**row._mapping) for row in fetch(connection, statement, limit=limit, lease=lease)]
    return sorted(claimed, key=lambda each: each.outbox_id)


def mark_dispatched(connection: Connection, announcements: Sequence[Announcement]) -> int:
    """Settle announcements that the broker has taken."""
    statement = "UPDATE outbox SET dispatched_at = clock_timestamp() WHERE outbox_id = ANY(CAST(:ids AS bigint[]))"
    return execute(connection, statement, ids=[each.outbox_id for each in announcements])
