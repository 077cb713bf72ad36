"""The ledger job: post what stopped, announce who reached their limit."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.storage import outbox, sessions
from usage_tasks.storage.plans import Plan
from usage_tasks.storage.sessions import Posted

BATCH: Final = 10_000


def post_batch(connection: Connection, *, at: datetime) -> Posted:
    """Post up to BATCH sessions that had stopped by `at`; fewer than BATCH means that nothing free is left."""
    return sessions.post_stopped(connection, at=at, limit=BATCH)


def announce_limits(connection: Connection, *, at: datetime) -> int:
    """Put an announcement into the outbox for each account that has reached its limit, once a cycle."""
    return outbox.announce_reached_limits(connection, at=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilePlan:
    """What a run of the ledger job would write: entries, and announcements of reached limits."""

    entries: Plan
    limits_reached: Plan


def plan_reconcile(connection: Connection, *, at: datetime) -> ReconcilePlan:
    """Answer what the job would do at `at`; it reads only, and holds nobody up."""
    return ReconcilePlan(
        entries=sessions.plan_stopped(connection, at=at),
        limits_reached=outbox.plan_reached_limits(connection, at=at),
    )
