"""Delete history that is older than the settings keep it, a bounded batch a transaction."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeAlias

from sqlalchemy import Connection

from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.operations import pruning

BATCH: Final = 1_000

Rule: TypeAlias = Callable[[Connection], int]
"""Deletes one batch of a table's rows, and returns how many these were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long each kind of history is kept; None for ever."""

    job_runs: timedelta | None
    sent_announcements: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """How many rows were deleted, by kind; `more`: the time was used up before all that was due."""

    job_runs: int
    sent_announcements: int
    more: bool


def prune(transaction: Transaction, retention: Retention, *, at: datetime, longest: timedelta) -> Pruned:
    """Delete batch after batch until nothing is due or `longest` is over. Slots are of `at`'s time."""
    ends_at = time.monotonic() + longest.total_seconds()
    with transaction() as connection:
        jobs = pruning.list_jobs(connection)
    counts = {"job_runs": 0, "sent_announcements": 0}
    for kind, rule in _rules(retention, jobs, at=at):
        while True:
            if time.monotonic() >= ends_at:
                return Pruned(**counts, more=True)
            with transaction() as connection:
                rows = rule(connection)
            counts[kind] += rows
            if rows < BATCH:
                break
    return Pruned(**counts, more=False)


def _rules(retention: Retention, jobs: Sequence[str], *, at: datetime) -> Iterator[tuple[str, Rule]]:
    """Yield each table that has history, with its rule of what to delete."""
    if retention.job_runs is not None:
        before = at - retention.job_runs
        yield from (("job_runs", partial(pruning.prune_job_runs, job=job, before=before, limit=BATCH)) for job in jobs)
    if retention.sent_announcements is not None:
        kept_for = retention.sent_announcements
        yield "sent_announcements", partial(pruning.prune_announcements, kept_for=kept_for, limit=BATCH)
