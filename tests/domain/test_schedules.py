from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.factories import START
from usage_tasks.domain.schedules import OVERDUE_AFTER, JobStanding, LastRuns, due_slot, judge_job

PERIOD = timedelta(minutes=15)
SECOND = timedelta(seconds=1)
DONE = LastRuns(
    slot=START,
    started_at=START + SECOND,
    finished_at=START + 3 * SECOND,
    outcome="done",
    attempts=2,
    done_slot=START,
)


@pytest.mark.parametrize(
    ("at", "slot"),
    [
        (START, START),
        (START + PERIOD - timedelta(microseconds=1), START),
        (START + PERIOD, START + PERIOD),
        (datetime(1970, 1, 1, 0, 7, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_due_time_is_the_latest_whole_period(at: datetime, slot: datetime) -> None:
    assert due_slot(at, PERIOD) == slot


def test_a_job_that_was_done_in_time_waits_for_its_next_due_time() -> None:
    assert judge_job("ledger", PERIOD, DONE, at=START + PERIOD - SECOND) == JobStanding(
        job="ledger",
        period_seconds=900.0,
        last_slot=START,
        last_started_at=START + SECOND,
        last_finished_at=START + 3 * SECOND,
        outcome="done",
        attempts=2,
        duration_seconds=2.0,
        next_slot=START + PERIOD,
        lag_seconds=0.0,
        overdue=False,
    )


def test_a_job_that_never_ran_waits_since_the_latest_due_time() -> None:
    assert judge_job("ledger", PERIOD, None, at=START + 7 * SECOND) == JobStanding(
        job="ledger",
        period_seconds=900.0,
        last_slot=None,
        last_started_at=None,
        last_finished_at=None,
        outcome="never",
        attempts=0,
        duration_seconds=None,
        next_slot=START + PERIOD,
        lag_seconds=7.0,
        overdue=False,
    )


def test_a_job_that_is_switched_off_is_never_late() -> None:
    standing = judge_job("ledger", None, DONE, at=START + 100 * PERIOD)
    assert (standing.period_seconds, standing.next_slot) == (None, None)
    assert (standing.lag_seconds, standing.overdue) == (0.0, False)


def test_one_that_has_not_ended_runs_for_no_time_that_is_known() -> None:
    standing = judge_job("ledger", PERIOD, replace(DONE, finished_at=None, outcome=None), at=START)
    assert (standing.outcome, standing.duration_seconds) == ("running", None)


@pytest.mark.parametrize(
    ("done_slot", "at", "lag"),
    [
        (START, START + PERIOD, timedelta(0)),
        (START, START + PERIOD + SECOND, SECOND),
        (START, START + 2 * PERIOD + SECOND, PERIOD + SECOND),  # two due times were missed: the older one counts
        (None, START + PERIOD + SECOND, SECOND),
        (START, START + PERIOD + OVERDUE_AFTER, OVERDUE_AFTER),
        (START, START + PERIOD + OVERDUE_AFTER + SECOND, OVERDUE_AFTER + SECOND),
    ],
)
def test_how_late_a_job_is_counts_from_the_first_due_time_that_was_not_done(
    done_slot: datetime | None, at: datetime, lag: timedelta
) -> None:
    standing = judge_job("ledger", PERIOD, replace(DONE, done_slot=done_slot), at=at)
    assert (standing.lag_seconds, standing.overdue) == (lag.total_seconds(), lag > OVERDUE_AFTER)
