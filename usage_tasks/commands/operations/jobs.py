"""`usage-tasks jobs`: each periodic job's schedule, last and next run, outcome, duration and lag."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from usage_tasks.commands import WRONG
from usage_tasks.commands.tables import show_table
from usage_tasks.domain.schedules import JobStanding
from usage_tasks.runtime import runtime
from usage_tasks.services.operations.job_standings import list_job_standings
from usage_tasks.storage.rows import as_json


def jobs(as_json_lines: Annotated[bool, typer.Option("--json", help="a line of JSON a job")] = False) -> None:
    """Show the periodic jobs; exit code 1 if one is overdue: a due time has waited for more than 5 minutes."""
    rt = runtime()
    with rt.transaction() as connection:
        standings = list_job_standings(connection, rt.settings.job_schedules, at=rt.now())
    if as_json_lines:
        sys.stdout.writelines(json.dumps(json.loads(as_json(asdict(each)))) + "\n" for each in standings)
    else:
        show_table(("job", "every", "last due", "outcome", "took", "next due", "lag"), map(_row, standings))
    raise typer.Exit(WRONG if any(each.overdue for each in standings) else 0)


def _row(job: JobStanding) -> tuple[str, ...]:
    return (
        job.job,
        "off" if job.period_seconds is None else f"{job.period_seconds:g} s",
        f"{job.last_slot:%Y-%m-%d %H:%M:%S}" if job.last_slot else "never",
        f"{job.outcome} ({job.attempts})" if job.attempts > 1 else job.outcome,
        "" if job.duration_seconds is None else f"{job.duration_seconds:.2f} s",
        f"{job.next_slot:%Y-%m-%d %H:%M:%S}" if job.next_slot else "",
        f"{job.lag_seconds:.0f} s{', OVERDUE' if job.overdue else ''}{_of_the_future(job)}",
    )


def _of_the_future(standing: JobStanding) -> str:
    slot = standing.future_slot
    return "" if slot is None else f", a slot of the future: {slot:%Y-%m-%d %H:%M:%S}, a clock was wrong"
