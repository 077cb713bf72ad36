"""Job runs: one row a due time, so that a tick runs once however many beats and workers there are."""

from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.storage.rows import as_json, execute


def claim_slot(connection: Connection, job: str, slot: datetime, *, lease: timedelta) -> bool:
    """Take a due time; tell whether this call got it.

    One whose run failed is free at once, for its retry; one that was taken and never finished is free after the lease.
    """
    statement = """
        INSERT INTO job_run AS held (job, slot) VALUES (:job, :slot)
        ON CONFLICT (job, slot) DO UPDATE
        SET started_at = clock_timestamp(), finished_at = NULL, outcome = NULL, attempts = held.attempts + 1
        WHERE held.outcome = 'failed' OR (held.outcome IS NULL AND held.started_at < clock_timestamp() - :lease)
    """
    return execute(connection, statement, job=job, slot=slot, lease=lease) == 1


def finish_slot(connection: Connection, job: str, slot: datetime, *, outcome: str, summary: object) -> None:
    """Store how a run ended."""
    statement = """
        UPDATE job_run SET finished_at = clock_timestamp(), outcome = :outcome, summary = CAST(:summary AS jsonb)
        WHERE job = :job AND slot = :slot
    """
    execute(connection, statement, job=job, slot=slot, outcome=outcome, summary=as_json(summary))
