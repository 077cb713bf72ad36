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


@pytest.mark.parametrize(
    ("noted", "at", "lag"),
    [
        (None, START + 7 * SECOND, 0.0),  # nobody has seen its schedule
        (START, START + PERIOD - SECOND, 0.0),
        (START, START + PERIOD, 0.0),
        (START, START + PERIOD + 7 * SECOND, 7.0),
        (START, START + 3 * PERIOD, 2 * PERIOD.total_seconds()),  # nobody works
    ],
)
def test_a_job_that_never_ran_is_due_at_its_first_due_time_after_its_schedule_was_seen(
    noted: datetime | None, at: datetime, lag: float
) -> None:
    unrun = replace(DONE, finished_at=None, outcome=None, attempts=0, done_slot=None)
    seen = None if noted is None else replace(unrun, slot=noted)
    assert judge_job("ledger", PERIOD, seen, at=at) == JobStanding(
        job="ledger",
        period_seconds=900.0,
        last_slot=None,
        last_started_at=None,
        last_finished_at=None,
        outcome="never",
        attempts=0,
        duration_seconds=None,
        next_slot=due_slot(at, PERIOD) + PERIOD,
        lag_seconds=lag,
        overdue=lag > OVERDUE_AFTER.total_seconds(),
    )


def test_a_slot_of_the_future_is_said_and_counts_for_nothing() -> None:
    future = START + 1000 * PERIOD
    standing = judge_job("ledger", PERIOD, replace(DONE, future_slot=future), at=START + 3 * PERIOD)
    assert (standing.future_slot, standing.lag_seconds, standing.overdue) == (future, 2 * PERIOD.total_seconds(), True)


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
