"""How every periodic job stands: what ran, what is due, what is late."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.domain.schedules import SLOT_AHEAD_MAX, JobStanding, due_slot, judge_job
from usage_tasks.storage.operations import jobs


def list_job_standings(
    connection: Connection, schedules: Mapping[str, timedelta | None], *, at: datetime
) -> Sequence[JobStanding]:
    """Return the standing of each job that has a schedule, or could have one."""
    last = jobs.list_last_runs(connection, list(schedules), until=at + SLOT_AHEAD_MAX)
    return [judge_job(job, period, last.get(job), at=at) for job, period in schedules.items()]


def note_schedules(connection: Connection, schedules: Mapping[str, timedelta | None], *, at: datetime) -> None:
    """Store since when each job is scheduled that never ran: its first due time is the next one."""
    jobs.note_scheduled(connection, {job: due_slot(at, period) for job, period in schedules.items() if period})
