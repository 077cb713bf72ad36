"""The ledger job: cap zombies, post what stopped, announce who reached their limit."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.limits import Crossing, LimitPolicy
from usage_tasks.services.ledger.reset import ResetPlan, rehearse_expiries
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.ledger import posting
from usage_tasks.storage.ledger.posting import Posted
from usage_tasks.storage.limits import crossings
from usage_tasks.storage.plans import Plan
from usage_tasks.storage.sessions import zombies
from usage_tasks.storage.sessions.zombies import Caps

BATCH: Final = 100_000
DEFAULT_POLICY: Final = LimitPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """How many accounts' levels were announced, by what they are."""

    thresholds: int
    limits: int
    hard_limits: int


def cap_batch(
    connection: Connection, *, at: datetime, heartbeat_grace: timedelta | None, lifetime_max: timedelta | None
) -> Caps:
    """Cap up to BATCH running sessions without proof of life, or older than any may be; before what stopped is posted.

    A bound of None is switched off. Fewer than BATCH changes mean that nothing free is left.
    """
    return zombies.cap_zombies(connection, at=at, grace=heartbeat_grace, lifetime=lifetime_max, limit=BATCH)


def post_batch(connection: Connection, *, at: datetime) -> Posted:
    """Post up to BATCH sessions that had stopped by `at`; fewer than BATCH means that nothing free is left."""
    return posting.post_stopped(connection, at=at, limit=BATCH)


def announce_limits(connection: Connection, *, at: datetime, policy: LimitPolicy = DEFAULT_POLICY) -> Announced:
    """Put an announcement into the outbox for each level that a balance has reached, once a cycle and limit."""
    crossed = crossings.announce_crossings(connection, at=at, policy=policy)
    return Announced(
        thresholds=crossed.get(Crossing.THRESHOLD, 0),
        limits=crossed.get(Crossing.LIMIT, 0),
        hard_limits=crossed.get(Crossing.HARD_LIMIT, 0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilePlan:
    """The planned writes of the ledger job: caps, entries, grants' expiries, announcements of levels crossed."""

    zombies: Caps
    entries: Plan
    expiries: ResetPlan
    announcements: Plan


def plan_reconcile(
    connection: Connection,
    *,
    at: datetime,
    heartbeat_grace: timedelta | None,
    lifetime_max: timedelta | None,
    policy: LimitPolicy = DEFAULT_POLICY,
) -> ReconcilePlan:
    """Return what the job would do at `at`.

    Caps and expiries, on which the rest builds, are executed and rolled back; without any it only reads.
    """
    with rehearsal(connection):
        capped = Caps(capped=0, moved=0, lifted=0)
        while (
            batch := cap_batch(connection, at=at, heartbeat_grace=heartbeat_grace, lifetime_max=lifetime_max)
        ).changed:
            capped = Caps(
                capped=capped.capped + batch.capped,
                moved=capped.moved + batch.moved,
                lifted=capped.lifted + batch.lifted,
            )
        entries = posting.plan_stopped(connection, at=at)
        expiries = rehearse_expiries(connection, at=at)
        announcements = crossings.plan_crossings(connection, at=at, policy=policy)
    return ReconcilePlan(zombies=capped, entries=entries, expiries=expiries, announcements=announcements)
