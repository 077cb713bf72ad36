"""What the platform must hear, stored with the change that causes it and sent afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.storage.balances import with_balances
from usage_tasks.storage.rows import execute, fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One message to the platform: a Celery task's name and its arguments."""

    outbox_id: int
    key: str
    task: str
    payload: dict[str, object]


_ALL_ACCOUNTS = "SELECT attribution_id, CAST(:at AS timestamptz) AS at FROM cost_center WHERE superseded_at IS NULL"

_ANNOUNCE_LIMITS = f"""
    WITH {with_balances(_ALL_ACCOUNTS)}
    INSERT INTO outbox (key, task, payload)
    SELECT 'usage_limit_reached:' || c.attribution_id || ':' || extract(epoch FROM c.cycle_started_at),
           'server.usage_limit_reached',
           jsonb_build_object('attribution_id', c.attribution_id, 'spending_limit', c.spending_limit,
                              'balance_cents', b.credit_cents, 'cycle_started_at', c.cycle_started_at, 'at', b.at)
    FROM cost_center c JOIN balance b USING (attribution_id)
    WHERE c.superseded_at IS NULL AND c.cycle_started_at <= b.at AND b.credit_cents >= c.spending_limit * 100
    ORDER BY c.attribution_id
    ON CONFLICT (key) DO NOTHING
"""


def announce_reached_limits(connection: Connection, *, at: datetime) -> int:
    """Announce each account whose balance has reached its spending limit, once a cycle; return how many are new."""
    return execute(connection, _ANNOUNCE_LIMITS, at=at)


def claim_announcements(connection: Connection, *, limit: int) -> Sequence[Announcement]:
    """Lock up to `limit` announcements that are not sent yet, oldest first."""
    statement = """
        SELECT outbox_id, key, task, payload FROM outbox WHERE dispatched_at IS NULL
        ORDER BY outbox_id LIMIT :limit FOR UPDATE SKIP LOCKED
    """
    return [Announcement(**row._mapping) for row in fetch(connection, statement, limit=limit)]


def mark_dispatched(connection: Connection, announcements: Sequence[Announcement]) -> int:
    """Settle announcements that the broker has taken."""
    statement = "UPDATE outbox SET dispatched_at = clock_timestamp() WHERE outbox_id = ANY(CAST(:ids AS bigint[]))"
    return execute(connection, statement, ids=[each.outbox_id for each in announcements])
