"""Periodic jobs: one run at a time, and a due time once, however many beats tick and workers listen (docs/adr/0018).

A beat's tick has `scheduled`; the worker computes its due time and takes the row. A call by hand runs
independently of the schedule: every job is idempotent. A lock in Redis keeps others from trying while a run lives; an
epoch in PostgreSQL, checked in each of its transactions, keeps a run that lost the lock from writing. A dry run takes
nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Generic, TypeVar

import structlog
from pydantic_core import to_jsonable_python
from sqlalchemy import Connection

from usage_tasks.coordination import lock
from usage_tasks.coordination.lock import LockState
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.schedules import SLOT_AHEAD_MAX, due_slot
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.reset import ResetBatch
from usage_tasks.services.operations.job_standings import note_schedules
from usage_tasks.storage.operations import jobs

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")
Planned = TypeVar("Planned")

LEASE: Final = timedelta(minutes=10)
"""After this long a run that never ended is given up where Redis is away; else when its lock is free."""

BATCHES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """This due time has been run, or another worker is at it, or at another one of the job."""

    skipped: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun(Generic[Planned]):
    """The planned writes of a run, one level down, so that no metric counts them as done."""

    dry_run: Planned


def take_batches(rt: Runtime, take: Callable[..., ResetBatch], *, at: datetime) -> ResetBatch:
    """Take batch after batch, a transaction each, until nothing is due; accounts that failed hold up no other."""
    cycles = expiries = 0
    failed: list[tuple[AttributionId, str]] = []
    for _ in range(BATCHES_MAX):
        with rt.transaction() as connection:
            batch = take(connection, at=at, excluding=[account for account, _ in failed])
        cycles, expiries, failed = cycles + batch.cycles, expiries + batch.expiries, [*failed, *batch.failed]
        if batch.idle:
            break
    return ResetBatch(cycles=cycles, expiries=expiries, failed=failed)


def check_failed(batch: ResetBatch) -> None:
    """Raise PermanentError if any account failed: the last step of a run, when the others' work is done."""
    if batch.failed:
        shown = "; ".join(f"{account}: {reason}" for account, reason in batch.failed[:10])
        raise PermanentError(f"reset: {batch.cycles} cycles ended, {len(batch.failed)} accounts failed: {shown}")


def _look_at_slots(rt: Runtime, connection: Connection, job: str, now: datetime) -> None:
    """Free the slots that a wrong clock took, and store since when other jobs are scheduled."""
    latest = jobs.void_future_slots(connection, job, after=now + SLOT_AHEAD_MAX)
    if latest is not None:
        log.warning("job.slot_of_the_future", job=job, slot=latest.isoformat(), now=now.isoformat())
    note_schedules(connection, rt.settings.job_schedules, at=now)


def run_job(
    rt: Runtime,
    job: str,
    period: timedelta | None,
    *,
    at: datetime | None,
    scheduled: bool,
    work: Callable[[Runtime, datetime], Answer],
    lock_lease: timedelta = lock.LEASE,
) -> Answer | Skipped:
    """Run a job's work at an instant, once a due time where a schedule asked for it, never beside another run of it.

    The work gets a runtime whose transactions fail with StaleEpochError once another run has begun.
    """
    now = rt.instant(at)
    slot = due_slot(now, period) if scheduled and period is not None else None
    with lock.held(rt.redis, job, lease=lock_lease) as state:
        if state is LockState.TAKEN:
            return Skipped()
        with rt.transaction() as connection:
            if slot is not None and at is None:
                _look_at_slots(rt, connection, job, now)
            # The holder of the lock knows that a run that began and never ended is gone, or has lost the lock.
            lease = timedelta(0) if state is LockState.HELD else LEASE
            attempt = None if slot is None else jobs.claim_slot(connection, job, slot, lease=lease)
            if slot is not None and attempt is None:
                return Skipped()
            fenced = rt.fenced(jobs.begin_epoch(connection, job))
        if slot is None or attempt is None:
            return work(fenced, now)
        outcome, summary = "failed", None
        try:
            answer = work(fenced, now)
            outcome, summary = "done", answer
            return answer
        finally:
            stored = to_jsonable_python(summary)
            with rt.transaction() as connection:
                jobs.finish_slot(connection, job, slot, attempt=attempt, outcome=outcome, summary=stored)
