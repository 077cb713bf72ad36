"""The jobs `usage.reconcile` and `usage.reset`: usage posted, cycles ended. Ledger tasks: no network."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import structlog

from usage_tasks.domain.errors import RetryableError
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.ledger import post_usage, reset
from usage_tasks.services.limits.publish_balances import PAGE, write_snapshots
from usage_tasks.tasks.jobs import BATCHES_MAX, DryRun, Skipped, check_failed, run_job, take_batches
from usage_tasks.tasks.task import task
from usage_tasks.tasks.usage.quarantine import show_waiting
from usage_tasks.telemetry.metrics import SNAPSHOT_RUNS, SNAPSHOT_WRITTEN_AT
from usage_tasks.wire.values import Flag, Moment

SnapshotOutcome = Literal["written", "failed", "skipped"]


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileAnswer:
    """The result of the ledger job: entries posted and their sum, grants' expiries, announced limits, balances shown.

    `zombies` counts newly capped sessions, `zombies_lifted` caps whose cause was switched off. The snapshot is
    "written", "failed" (Redis is away: the next tick makes up for it), or "skipped" by a run for an instant of its
    own: it shows the present.
    """

    entries: int
    credit_cents: int
    expiries: int
    thresholds_reached: int
    limits_reached: int
    hard_limits_reached: int
    zombies: int
    zombies_lifted: int
    snapshot: SnapshotOutcome
    snapshots_written: int


@task(name="usage.reconcile", time_limit=timedelta(minutes=4))
def reconcile_usage(
    at: Moment | None = None,
    scheduled: Flag = False,  # noqa: FBT002 - a wire argument
    dry_run: Flag = False,  # noqa: FBT002 - a wire argument
) -> ReconcileAnswer | Skipped | DryRun[post_usage.ReconcilePlan]:
    """Cap zombies, post every session that had stopped by `at`, announce limits, show balances in Redis."""
    rt = runtime()
    if dry_run:
        now = rt.instant(at)
        with rt.transaction() as connection:
            plan = post_usage.plan_reconcile(
                connection,
                at=now,
                heartbeat_grace=rt.settings.heartbeat_grace,
                lifetime_max=rt.settings.max_session_lifetime,
                policy=rt.limit_policy,
            )
        return DryRun(dry_run=plan)

    def work(rt: Runtime, now: datetime) -> ReconcileAnswer:
        capped, lifted = _cap_zombies(rt, now)
        posted, cents = 0, 0
        for _ in range(BATCHES_MAX):
            with rt.transaction() as connection:
                batch = post_usage.post_batch(connection, at=now)
            posted, cents = posted + batch.entries, cents + batch.credit_cents
            if batch.entries < post_usage.BATCH:
                break
        settled = take_batches(rt, reset.settle_expired, at=now)  # before limits: an expired grant no longer pays
        with rt.transaction() as connection:
            reached = post_usage.announce_limits(connection, at=now, policy=rt.limit_policy)
        outcome: SnapshotOutcome = "skipped"
        written = 0
        if at is None:
            outcome, written = _publish_balances(rt, at=now)
            show_waiting(rt)
        check_failed(settled)
        return ReconcileAnswer(
            entries=posted,
            credit_cents=cents,
            expiries=settled.expiries,
            thresholds_reached=reached.thresholds,
            limits_reached=reached.limits,
            hard_limits_reached=reached.hard_limits,
            zombies=capped,
            zombies_lifted=lifted,
            snapshot=outcome,
            snapshots_written=written,
        )

    return run_job(rt, "usage.reconcile", rt.settings.controller_schedule, at=at, scheduled=scheduled, work=work)


def _cap_zombies(rt: Runtime, now: datetime) -> tuple[int, int]:
    capped, lifted = 0, 0
    for _ in range(BATCHES_MAX):
        with rt.transaction() as connection:
            grace, lifetime = rt.settings.heartbeat_grace, rt.settings.max_session_lifetime
            batch = post_usage.cap_batch(connection, at=now, heartbeat_grace=grace, lifetime_max=lifetime)
        capped, lifted = capped + batch.capped, lifted + batch.lifted
        if batch.changed < post_usage.BATCH:
            break
    return capped, lifted


def _publish_balances(rt: Runtime, *, at: datetime) -> tuple[SnapshotOutcome, int]:
    """Bring the balances in Redis up to date; return the outcome and the number of accounts written.

    The money is in the ledger by now: it is no reason to run the job again, and the next tick writes what is missing.
    """
    try:
        run = write_snapshots(rt.transaction, rt.snapshots, grace=rt.limit_policy.grace, at=at, limit=PAGE)
    except RetryableError as error:
        SNAPSHOT_RUNS.labels("failed").inc()
        log.warning("snapshot.failed", reason=str(error))
        return "failed", 0
    SNAPSHOT_RUNS.labels("written").inc()
    SNAPSHOT_WRITTEN_AT.set_to_current_time()
    log.info("snapshot.written", written=run.written, full=run.full)
    return "written", run.written


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetAnswer:
    """The result of the reset job: cycles ended."""

    cycles: int


@task(name="usage.reset", time_limit=timedelta(minutes=4))
def reset_usage(
    at: Moment | None = None,
    scheduled: Flag = False,  # noqa: FBT002 - a wire argument
    dry_run: Flag = False,  # noqa: FBT002 - a wire argument
) -> ResetAnswer | Skipped | DryRun[reset.ResetPlan]:
    """End every billing cycle on strategy other that is due at `at`; fails at the end if any account failed."""
    rt = runtime()
    if dry_run:
        now = rt.instant(at)
        with rt.transaction() as connection:
            return DryRun(dry_run=reset.plan_resets(connection, at=now))

    def work(rt: Runtime, now: datetime) -> ResetAnswer:
        batch = take_batches(rt, reset.reset_due, at=now)
        check_failed(batch)
        return ResetAnswer(cycles=batch.cycles)

    return run_job(rt, "usage.reset", rt.settings.reset_usage_schedule, at=at, scheduled=scheduled, work=work)
