"""What the platform must hear, stored with the change that causes it and sent afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.storage.balances import with_balances
from usage_tasks.storage.plans import Plan, planned, run_plan
from usage_tasks.storage.rows import execute, fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One message to the platform: a Celery task's name and its arguments."""

    outbox_id: int
    key: str
    task: str
    payload: dict[str, object]


_ALL_ACCOUNTS = "SELECT attribution_id, CAST(:at AS timestamptz) AS at FROM cost_center WHERE superseded_at IS NULL"

_REACHED = f"""
    WITH {with_balances(_ALL_ACCOUNTS)}, reached AS (
        SELECT concat_ws(':', 'usage_limit_reached', c.attribution_id, extract(epoch FROM c.cycle_started_at)::bigint,
                         c.spending_limit) AS key,
               'server.usage_limit_reached' AS task,
               jsonb_build_object('attribution_id', c.attribution_id, 'spending_limit', c.spending_limit,
                                  'balance_cents', b.credit_cents, 'cycle_started_at', c.cycle_started_at,
                                  'at', b.at) AS payload
        FROM cost_center c JOIN balance b USING (attribution_id)
        WHERE c.superseded_at IS NULL AND c.cycle_started_at <= b.at AND c.next_billing_at > b.at
            AND b.credit_cents >= c.spending_limit * 100
    )
"""

_ANNOUNCE_LIMITS = f"""
    {_REACHED}
    INSERT INTO outbox (key, task, payload) SELECT key, task, payload FROM reached ORDER BY key
    ON CONFLICT (key) DO NOTHING
"""

_PLAN = f"""
    {_REACHED}, new AS (
        SELECT key, task, payload FROM reached WHERE NOT EXISTS (SELECT 1 FROM outbox o WHERE o.key = reached.key)
    )
    {planned("new", order="key")}
"""


def announce_reached_limits(connection: Connection, *, at: datetime) -> int:
    """Announce each account whose balance has reached its spending limit, once a cycle and limit; return how many.

    An account whose cycle has ended is judged after its reset, or after its invoice is booked.
    """
    return execute(connection, _ANNOUNCE_LIMITS, at=at)


def plan_reached_limits(connection: Connection, *, at: datetime) -> Plan:
    """Answer what `announce_reached_limits` would put into the outbox."""
    return run_plan(connection, _PLAN, at=at)


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
