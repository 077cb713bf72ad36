"""Job runs: one row a due time, so that a tick runs once however many beats and workers there are.

A job's epoch is its fencing token: each run begins one, and a transaction of a run whose epoch is over does not commit.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.domain.errors import StaleEpochError
from usage_tasks.domain.schedules import LastRuns
from usage_tasks.storage.rows import as_json, execute, fetch, fetch_one


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The right of one run to write."""

    job: str
    number: int


def begin_epoch(connection: Connection, job: str) -> Epoch:
    """End the epoch of whoever ran before, once what it is writing is written, and begin one."""
    statement = """
        INSERT INTO job_epoch AS held (job, epoch) VALUES (:job, 1)
        ON CONFLICT (job) DO UPDATE SET epoch = held.epoch + 1
        RETURNING epoch
    """
    return Epoch(job=job, number=fetch_one(connection, statement, job=job).epoch)


def hold_epoch(connection: Connection, epoch: Epoch) -> None:
    """Make sure that no other run begins before this transaction ends. Raises StaleEpochError where one has begun."""
    statement = "SELECT epoch FROM job_epoch WHERE job = :job FOR SHARE"
    current = fetch_one(connection, statement, job=epoch.job).epoch
    if current != epoch.number:
        raise StaleEpochError(f"{epoch.job}: epoch {epoch.number} is over, another run has begun {current}")


def claim_slot(connection: Connection, job: str, slot: datetime, *, lease: timedelta) -> int | None:
    """Take a due time; answer which attempt at it this is, None where it is not free.

    One whose run failed is free at once, for its retry; one that was taken and never finished is free after the lease.
    """
    statement = """
        INSERT INTO job_run AS held (job, slot) VALUES (:job, :slot)
        ON CONFLICT (job, slot) DO UPDATE
        SET started_at = clock_timestamp(), finished_at = NULL, outcome = NULL, attempts = held.attempts + 1
        WHERE held.outcome = 'failed' OR (held.outcome IS NULL AND held.started_at <= clock_timestamp() - :lease)
        RETURNING attempts
    """
    rows = fetch(connection, statement, job=job, slot=slot, lease=lease)
    return int(rows[0].attempts) if rows else None


def finish_slot(
    connection: Connection, job: str, slot: datetime, *, attempt: int, outcome: str, summary: object
) -> None:
    """Store how an attempt ended, unless another one has begun."""
    statement = """
        UPDATE job_run SET finished_at = clock_timestamp(), outcome = :outcome, summary = CAST(:summary AS jsonb)
        WHERE job = :job AND slot = :slot AND attempts = :attempt
    """
    execute(connection, statement, job=job, slot=slot, attempt=attempt, outcome=outcome, summary=as_json(summary))


def list_last_runs(connection: Connection) -> dict[str, LastRuns]:
    """Answer each job's latest run, beside the latest due time that was done."""
    statement = """
        SELECT DISTINCT ON (held.job) held.job, held.slot, held.started_at, held.finished_at, held.outcome,
               held.attempts,
               (SELECT max(done.slot) FROM job_run AS done
                WHERE done.job = held.job AND done.outcome = 'done') AS done_slot
        FROM job_run AS held ORDER BY held.job, held.slot DESC
    """
    return {
        row.job: LastRuns(
            slot=row.slot,
            started_at=row.started_at,
            finished_at=row.finished_at,
            outcome=row.outcome,
            attempts=row.attempts,
            done_slot=row.done_slot,
        )
        for row in fetch(connection, statement)
    }
