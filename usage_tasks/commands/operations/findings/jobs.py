"""The periodic jobs: late, failing, or run under a clock that was wrong; and what their last runs found."""

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import Connection

from usage_tasks.commands.operations.findings.finding import DoctorFinding, Examination, Findings, fine, look, wrong
from usage_tasks.domain.schedules import SLOT_AHEAD_MAX, JobStanding
from usage_tasks.services.operations.job_standings import list_job_standings
from usage_tasks.storage.operations import jobs
from usage_tasks.storage.operations.evidence import find_drift

STRIPE_QUEUES: Final = ("billing", "stripe")
ATTEMPTS_MAX: Final = 2
"""A run that failed once is tried again within a minute."""

_OF_A_FAILURE: Final[Mapping[str, str]] = {
    "maintenance.verify": "Run `usage-tasks verify`: it lists each invariant that is broken.",
    "billing.drift_report": "Run `usage-tasks drift`, which ends with the reason.",
    "billing.reconcile_invoices": "Run `usage-tasks invoices reconcile --dry-run`, which ends with the reason.",
    "stripe.backfill_events": "Run `usage-tasks check-stripe`; the log of a worker of stripe has the reason.",
}


def look_at_jobs(it: Examination) -> Findings:
    """Judge each job. Those of Stripe are left out where no Stripe is configured."""
    now = it.rt.now()
    with it.rt.transaction() as connection:
        standings = list_job_standings(connection, it.rt.settings.job_schedules, at=now)
        yield from _clock(it, connection, standings)
        astray = find_drift(connection, until=now + SLOT_AHEAD_MAX)
    for each in standings:
        unused = each.job.partition(".")[0] in STRIPE_QUEUES and not it.uses_stripe
        yield fine(each.job, f"{each.outcome}; no work: Stripe is not configured") if unused else _judge(each)
    if astray:
        found = f"{astray.accounts} accounts astray by the comparison of {astray.finished_at:%Y-%m-%d %H:%M}"
        yield look("drift", found, "Run `usage-tasks drift`; `usage-tasks drift --fix` sends anew what is lost.")


def _judge(job: JobStanding) -> DoctorFinding:
    if job.period_seconds is None:
        return fine(job.job, "switched off")
    queue = job.job.partition(".")[0]
    if job.outcome == "failed" and (job.overdue or job.attempts >= ATTEMPTS_MAX):
        found = f"failed {job.attempts} times, due for {job.lag_seconds:.0f} s"
        default = f"The log of a worker of {queue} has the reason: the lines with task={job.job}."
        advice = f"{_OF_A_FAILURE.get(job.job, default)} `usage-tasks jobs` shows every job."
        return (wrong if job.overdue else look)(job.job, found, advice)
    found = f"{job.outcome}, lag {job.lag_seconds:.0f} s"
    if not job.overdue:
        return fine(job.job, found)
    worker = f"a worker of its queue (`celery -A usage_tasks worker -Q {queue}`)"
    return wrong(job.job, found, f"Is a beat alive (`usage-tasks health beat`), and {worker}? See `usage-tasks jobs`.")


def _clock(it: Examination, connection: Connection, standings: Sequence[JobStanding]) -> Findings:
    """Show what a clock that was wrong has left in the runs of jobs."""
    future = [f"{each.job} {each.future_slot.isoformat()}" for each in standings if each.future_slot is not None]
    if future:
        yield look(
            "clocks",
            f"slots of the future, a clock was wrong: {', '.join(future)}",
            "They count for nothing, and run when their time comes. Look in the log for the clock that was ahead.",
        )
    if set_back := jobs.find_set_back(connection, list(it.rt.settings.job_schedules)):
        yield wrong(
            "clocks",
            f"the database's clock shows {set_back.total_seconds():.0f} s less than when a job last began",
            "It was set back. Rows that were written meanwhile are of the future: run `usage-tasks verify`.",
        )
