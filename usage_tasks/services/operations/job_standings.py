"""How every periodic job stands: what ran, what is due, what is late."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.domain.schedules import JobStanding, judge_job
from usage_tasks.storage.operations import jobs


def list_job_standings(
    connection: Connection, schedules: Mapping[str, timedelta | None], *, at: datetime
) -> Sequence[JobStanding]:
    """Answer the standing of each job that has a schedule, or could have one."""
    last = jobs.list_last_runs(connection)
    return [judge_job(job, period, last.get(job), at=at) for job, period in schedules.items()]
