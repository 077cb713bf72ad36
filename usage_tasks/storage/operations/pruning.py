"""History that nothing reads any more: which rows of a table may be deleted, in batches that hold no lock for long.

A table is added here with its rule, and to `RetentionSettings` with its key. No row goes that is a memory: by which
something is not done twice, or is found again. Rows that another transaction works at are left to the next batch.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.announcements import LEVEL_REACHED
from usage_tasks.storage.rows import fetch, fetch_one, sql_list

ABANDONED_AFTER: Final = timedelta(days=1)
"""A run that never ended is over by then: no task takes longer than minutes."""

# The latest runs, of all and of each outcome, by their slots, starts and ends, are what all looks at a job are made of.
# How far slots are gone is noted with the rows that go: `claim_slot` takes none of them again. Rows are compared as in
# `jobs.list_last_runs`, so that the index of outcomes serves.
_PRUNE_JOB_RUNS: Final = """
    WITH pruned AS (
        DELETE FROM job_run AS gone USING (
            SELECT job, slot FROM job_run AS old
            WHERE old.job = :job AND old.slot < :before
                AND (old.outcome IS NOT NULL OR old.started_at < clock_timestamp() - :abandoned_after)
                AND old.slot < (SELECT max(newer.slot) FROM job_run AS newer WHERE newer.job = :job)
                AND (old.outcome IS NULL OR old.slot < (
                    SELECT newer.slot FROM job_run AS newer
                    WHERE (newer.job, newer.outcome) <= (old.job, old.outcome)
                    ORDER BY newer.job DESC, newer.outcome DESC, newer.slot DESC LIMIT 1
                ))
                AND old.started_at < (SELECT max(newer.started_at) FROM job_run AS newer WHERE newer.job = :job)
                AND (old.outcome IS DISTINCT FROM 'done' OR old.finished_at < (
                    SELECT max(newer.finished_at) FROM job_run AS newer
                    WHERE newer.job = :job AND newer.outcome = 'done'
                ))
            ORDER BY old.slot LIMIT :limit FOR UPDATE OF old SKIP LOCKED
        ) AS due
        WHERE gone.job = due.job AND gone.slot = due.slot
        RETURNING gone.slot
    ), noted AS (
        INSERT INTO job_pruned AS held (job, slot)
        SELECT :job, max(slot) FROM pruned HAVING count(*) > 0
        ON CONFLICT (job) DO UPDATE SET slot = GREATEST(held.slot, EXCLUDED.slot)
    )
    SELECT count(*) AS rows FROM pruned
"""

# The others are announced once per key of the outbox alone; of these limit_crossing is the memory (docs/adr/0010).
_REMEMBERED_ELSEWHERE: Final = sql_list(sorted(message.name for message in LEVEL_REACHED.values()))
_PRUNE_OUTBOX: Final = f"""
    WITH pruned AS (
        DELETE FROM outbox AS gone USING (
            SELECT old.outbox_id
            FROM (VALUES {", ".join(f"({name})" for name in _REMEMBERED_ELSEWHERE.split(", "))}) AS t(task)
            CROSS JOIN LATERAL (
                SELECT outbox_id FROM outbox
                WHERE outbox.task = t.task AND dispatched_at < (SELECT clock_timestamp() - :kept_for)
                ORDER BY dispatched_at LIMIT :limit FOR UPDATE SKIP LOCKED
            ) AS old
            LIMIT :limit
        ) AS due
        WHERE gone.outbox_id = due.outbox_id
        RETURNING 1
    )
    SELECT count(*) AS rows FROM pruned
"""


def list_jobs(connection: Connection) -> Sequence[str]:
    """List every job that has ever run, also jobs that no version runs any more."""
    return [row.job for row in fetch(connection, "SELECT job FROM job_epoch ORDER BY job")]


def prune_job_runs(connection: Connection, job: str, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` runs of a job whose slots are older than an instant; return how many."""
    found = fetch_one(connection, _PRUNE_JOB_RUNS, job=job, before=before, abandoned_after=ABANDONED_AFTER, limit=limit)
    return int(found.rows)


def prune_announcements(connection: Connection, *, kept_for: timedelta, limit: int) -> int:
    """Delete up to `limit` announcements that were sent so long ago and are remembered elsewhere; return how many."""
    return int(fetch_one(connection, _PRUNE_OUTBOX, kept_for=kept_for, limit=limit).rows)
