"""When a periodic job is due, and how late it is."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

OVERDUE_AFTER: Final = timedelta(minutes=5)
"""A tick comes every minute at most, and no run may take longer than four."""

SLOT_AHEAD_MAX: Final = timedelta(minutes=1)
"""A slot further ahead than this is of a clock that was wrong, and not of a run that began while somebody looked."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def due_slot(at: datetime, period: timedelta) -> datetime:
    """Return the latest due time at an instant: whole periods since 1970."""
    return at - (at - _EPOCH) % period


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRuns:
    """The runs of a job: its latest, the latest due time that was done, and the farthest slot of the future, if any.

    A job that never ran has 0 attempts; its slot is the due time that had passed when its schedule was first seen.
    """

    slot: datetime
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    attempts: int
    done_slot: datetime | None
    future_slot: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStanding:
    """The state of a job: outcome is "never", "running", "done" or "failed"; lag is how long a due time has waited.

    A slot of the future was taken by a run under a clock that was ahead. It does not count as done.
    """

    job: str
    period_seconds: float | None
    last_slot: datetime | None
    last_started_at: datetime | None
    last_finished_at: datetime | None
    outcome: str
    attempts: int
    duration_seconds: float | None
    next_slot: datetime | None
    lag_seconds: float
    overdue: bool
    future_slot: datetime | None = None


def judge_job(job: str, period: timedelta | None, last: LastRuns | None, *, at: datetime) -> JobStanding:
    """Return the state of a job at an instant. A job that is switched off is never late."""
    lag = timedelta(0) if period is None else _lag(period, last, at=at)
    future_slot = last.future_slot if last else None
    last = last if last and last.attempts else None
    finished = last.finished_at if last else None
    return JobStanding(
        job=job,
        period_seconds=None if period is None else period.total_seconds(),
        last_slot=last.slot if last else None,
        last_started_at=last.started_at if last else None,
        last_finished_at=finished,
        outcome="never" if last is None else last.outcome or "running",
        attempts=last.attempts if last else 0,
        duration_seconds=(finished - last.started_at).total_seconds() if last and finished else None,
        next_slot=None if period is None else due_slot(at, period) + period,
        lag_seconds=lag.total_seconds(),
        overdue=lag > OVERDUE_AFTER,
        future_slot=future_slot,
    )


def _lag(period: timedelta, last: LastRuns | None, *, at: datetime) -> timedelta:
    """Return how long the oldest due time has waited that came after the last one done.

    A job that never ran waits since its first due time after its schedule was seen; if nobody has seen it, for nothing.
    A job whose every run failed waits since the present due time.
    """
    if last is None:
        return timedelta(0)
    due = due_slot(at, period)
    done = last.done_slot if last.attempts else last.slot
    if done is None:
        return at - due
    return at - (done + period) if done < due else timedelta(0)
