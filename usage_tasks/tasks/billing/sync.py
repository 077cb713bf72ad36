"""`billing.sync` and `billing.send_meter_events`: balances into Stripe's meter. No transaction spans a call."""

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.ledger import reset
from usage_tasks.services.metering import decide_reports, parked, send_reports
from usage_tasks.storage.metering import queue
from usage_tasks.storage.plans import Plan
from usage_tasks.tasks import checks
from usage_tasks.tasks.jobs import DryRun, Skipped, check_failed, run_job, take_batches
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import Flag, Moment

log = structlog.get_logger(__name__)

SEND_LIMIT: Final = 50_000


SEND_THREADS: Final = 16


_PATIENCE: Final = timedelta(seconds=20)
"""The run waits for reports that were postponed for no longer than this, the first four times."""


_LONGEST: Final = timedelta(minutes=3)


_SENDING: Final = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncAnswer:
    """The result of the billing sync job: meter reports added."""

    reports: int


@task(name="billing.sync", time_limit=timedelta(minutes=4))
def sync_billing(
    at: Moment | None = None,
    scheduled: Flag = False,  # noqa: FBT002 - a wire argument
    dry_run: Flag = False,  # noqa: FBT002 - a wire argument
) -> SyncAnswer | Skipped | DryRun[Plan]:
    """Add a meter report for every paying account whose quantity changed, and have them sent."""
    rt = runtime()
    if dry_run:
        now = rt.instant(at)
        with rt.transaction() as connection:
            return DryRun(dry_run=decide_reports.plan_quantities(connection, at=now))

    def work(rt: Runtime, now: datetime) -> SyncAnswer:
        settled = take_batches(rt, reset.settle_expired, at=now)  # an expired grant no longer pays
        with rt.transaction() as connection:
            parked.release_for_clock(connection, at=now)
            added = decide_reports.report_quantities(connection, at=now)
        send_meter_events.apply_async(ignore_result=True)
        check_failed(settled)
        return SyncAnswer(reports=added)

    return run_job(rt, "billing.sync", rt.settings.billing_sync_schedule, at=at, scheduled=scheduled, work=work)


@task(name="billing.send_meter_events", time_limit=timedelta(minutes=4))
def send_meter_events() -> send_reports.Sent:
    """Send the meter reports that are due; fails at the end, with counts, if any did not get in."""
    rt = runtime()
    with rt.transaction() as connection:
        if not queue.is_any_due(connection):
            return send_reports.Sent(accepted=0, retried=0, parked=0)
    checks.ensure_checked(rt)
    # One run a process has threads; another one beside it helps with its own.
    alone = _SENDING.acquire(blocking=False)
    try:
        sent = send_reports.send_reports(
            rt.transaction,
            rt.stripe,
            limit=SEND_LIMIT,
            threads=SEND_THREADS if alone else 1,
            patience=_PATIENCE,
            longest=_LONGEST,
        )
    finally:
        if alone:
            _SENDING.release()
    if sent.early or sent.dropped:
        log.warning(
            "stripe.clock_differs", early=sent.early, dropped=sent.dropped, stripe_behind_seconds=sent.behind_seconds
        )
    if sent.more:
        send_meter_events.apply_async(ignore_result=True)
    if sent.parked:
        checks.forget(rt)  # the set-up may have changed: the next run looks at it before it sends
    counts = f"meter events: {sent.parked} parked, {sent.retried} put off, {sent.accepted} accepted"
    if sent.parked:
        raise PermanentError(counts if sent.halted is None else f"{counts}; stopped: {sent.halted}")
    if sent.halted is not None or sent.waiting:
        raise RetryableError(f"{counts}, {sent.waiting} waiting; stopped: {sent.halted}")
    return sent
