"""Job runs: one row a due time, so that a tick runs once however many beats and workers there are.

A job's epoch is its fencing token: each run begins one, and a transaction of a run whose epoch is over does not commit.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.errors import StaleEpochError
from usage_tasks.domain.schedules import LastRuns
from usage_tasks.storage.rows import as_json, execute, fetch, fetch_one

_LAST_RUNS: Final = tuple(each.name for each in fields(LastRuns))


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """The right of one run to write."""

    job: str
    number: int


def begin_epoch(connection: Connection, job: str) -> Epoch:
    """Start a new epoch. Waits for an open transaction of the previous run; its later transactions fail."""
    statement = """
        INSERT INTO job_epoch AS held (job, epoch) VALUES (:job, 1)
        ON CONFLICT (job) DO UPDATE SET epoch = held.epoch + 1
        RETURNING epoch
    """
    return Epoch(job=job, number=fetch_one(connection, statement, job=job).epoch)


def hold_epoch(connection: Connection, epoch: Epoch) -> None:
    """Make sure that no other run begins before this transaction ends. Raises StaleEpochError if one has begun."""
    statement = "SELECT epoch FROM job_epoch WHERE job = :job FOR SHARE"
    current = fetch_one(connection, statement, job=epoch.job).epoch
    if current != epoch.number:
        raise StaleEpochError(f"{epoch.job}: epoch {epoch.number} is over, another run has begun {current}")


def claim_slot(connection: Connection, job: str, slot: datetime, *, lease: timedelta) -> int | None:
    """Take a due time. Return the number of this attempt at it, or None if the slot is not free.

    A slot is not free if runs were pruned up to it. After a failed run it is free at once, for the retry; so is a slot
    that no run has taken (`note_scheduled`). After a run that never finished it is free after the lease, or if the
    lease would last longer than any may: then the database's clock was set back.
    """
    statement = """
        INSERT INTO job_run AS held (job, slot) VALUES (:job, :slot)
        ON CONFLICT (job, slot) DO UPDATE
        SET started_at = clock_timestamp(), finished_at = NULL, outcome = NULL, attempts = held.attempts + 1
        WHERE held.outcome = 'failed' OR (held.outcome IS NULL AND (
            held.attempts = 0 OR held.started_at <= clock_timestamp() - :lease
            OR held.started_at > clock_timestamp()))
        RETURNING attempts
    """
    rows = fetch(connection, statement, job=job, slot=slot, lease=lease)
    if not rows or (rows[0].attempts == 1 and _give_back_pruned(connection, job, slot)):
        return None
    return int(rows[0].attempts)


def _give_back_pruned(connection: Connection, job: str, slot: datetime) -> bool:
    """Delete the row of a slot that is new here and may have been run: rows were pruned up to it. Return True if so.

    A statement of its own after the insert, which waited for the pruning of the same row: now it is seen.
    """
    statement = """
        DELETE FROM job_run AS held USING job_pruned AS pruned
        WHERE held.job = :job AND held.slot = :slot AND pruned.job = held.job AND pruned.slot >= held.slot
    """
    return execute(connection, statement, job=job, slot=slot) > 0


def void_future_slots(connection: Connection, job: str, *, after: datetime) -> datetime | None:
    """Free the slots of a job later than an instant that count as run or running; return the latest of them, if any.

    A run took them under a clock that was ahead. Kept, they would stand for runs that are still to come; and so would
    slots of the future that were pruned.
    """
    statement = """
        WITH reached AS (
            UPDATE job_pruned SET slot = :after WHERE job = :job AND slot > :after
        ), voided AS (
            UPDATE job_run SET outcome = 'failed', finished_at = COALESCE(finished_at, clock_timestamp())
            WHERE job = :job AND slot > :after AND outcome IS DISTINCT FROM 'failed'
            RETURNING slot
        ) SELECT max(slot) AS latest FROM voided
    """
    latest: datetime | None = fetch_one(connection, statement, job=job, after=after).latest
    return latest


def note_scheduled(connection: Connection, slots: Mapping[str, datetime]) -> None:
    """Store for each job that has no row the due time that has passed, as a slot that no run has taken.

    By it a job that never ran is due at its next due time, and not at the one before its schedule was seen.
    """
    statement = """
        INSERT INTO job_run (job, slot, attempts)
        SELECT t.job, t.slot, 0 FROM unnest(CAST(:jobs AS text[]), CAST(:slots AS timestamptz[])) AS t(job, slot)
        WHERE NOT EXISTS (SELECT 1 FROM job_run AS held WHERE held.job = t.job)
        ON CONFLICT (job, slot) DO NOTHING
    """
    execute(connection, statement, jobs=list(slots), slots=list(slots.values()))


def finish_slot(
    connection: Connection, job: str, slot: datetime, *, attempt: int, outcome: str, summary: object
) -> None:
    """Store how an attempt ended, unless another one has begun."""
    statement = """
        UPDATE job_run SET finished_at = clock_timestamp(), outcome = :outcome, summary = CAST(:summary AS jsonb)
        WHERE job = :job AND slot = :slot AND attempts = :attempt
    """
    execute(connection, statement, job=job, slot=slot, attempt=attempt, outcome=outcome, summary=as_json(summary))


def find_set_back(connection: Connection, jobs: Collection[str]) -> timedelta:
    """Return by how much the database's clock shows less than when one of these jobs last began; 0 if it does not."""
    statement = """
        SELECT GREATEST(interval '0', max(latest.started_at) - clock_timestamp()) AS set_back
        FROM unnest(CAST(:jobs AS text[])) AS t(job)
        CROSS JOIN LATERAL (
            SELECT started_at FROM job_run AS run WHERE run.job = t.job ORDER BY started_at DESC LIMIT 1
        ) AS latest
    """
    set_back: timedelta = fetch_one(connection, statement, jobs=list(jobs)).set_back
    return set_back


# Each look-up is one step into an index, however many runs there are. The one for the done slot compares rows, which no
# other index serves: by the primary key, a job that has only ever failed would be read to its first run.
_LAST_RUNS_OF_EACH: Final = """
    SELECT t.job, held.slot, held.started_at, held.finished_at, held.outcome, held.attempts,
           CASE WHEN (done.job, done.outcome) = (t.job, 'done') THEN done.slot END AS done_slot,
           CASE WHEN latest.slot > :until THEN latest.slot END AS future_slot
    FROM unnest(CAST(:jobs AS text[])) AS t(job)
    CROSS JOIN LATERAL (
        SELECT slot FROM job_run AS run WHERE run.job = t.job ORDER BY slot DESC LIMIT 1
    ) AS latest
    LEFT JOIN LATERAL (
        SELECT slot FROM job_run AS run WHERE run.job = t.job AND run.slot <= :until ORDER BY slot DESC LIMIT 1
    ) AS past ON true
    LEFT JOIN LATERAL (
        SELECT job, outcome, slot FROM job_run AS run WHERE (run.job, run.outcome, run.slot) <= (t.job, 'done', :until)
        ORDER BY run.job DESC, run.outcome DESC, run.slot DESC LIMIT 1
    ) AS done ON true
    JOIN job_run AS held ON held.job = t.job AND held.slot = COALESCE(past.slot, latest.slot)
"""


def list_last_runs(connection: Connection, jobs: Collection[str], *, until: datetime) -> dict[str, LastRuns]:
    """Return of each job that has one its latest run up to an instant, the latest done slot, and any slot beyond."""
    rows = fetch(connection, _LAST_RUNS_OF_EACH, jobs=list(jobs), until=until)
    return {row.job: LastRuns(**{name: getattr(row, name) for name in _LAST_RUNS}) for row in rows}
