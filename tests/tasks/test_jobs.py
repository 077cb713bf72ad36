import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event
from typing import Any

import pytest
import redis
from prometheus_client import REGISTRY
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import text

from tests.factories import DAY, HOUR, QUIET_TICK, START, call, record, stopped_report, team, used, used_report
from usage_tasks.coordination.clock import TestClock
from usage_tasks.coordination.lock import LockState, held
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvariantError, PermanentError, RetryableError, StaleEpochError
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.reset import reset_due
from usage_tasks.services.operations.job_standings import list_job_standings
from usage_tasks.services.operations.verify_ledger import grace_of
from usage_tasks.storage.operations.jobs import begin_epoch
from usage_tasks.tasks import maintenance
from usage_tasks.tasks.jobs import LEASE, Skipped, run_job
from usage_tasks.tasks.usage import ledger
from usage_tasks.telemetry.logs import configure_logging

PERIOD = timedelta(minutes=15)
MONTH = add_months(START, 1)


def run(rt: Runtime, work: Any = lambda _, now: now, *, at: datetime | None = START, scheduled: bool = True) -> Any:
    return run_job(rt, "a job", PERIOD, at=at, scheduled=scheduled, work=work)


def runs(rt: Runtime) -> list[tuple[object, ...]]:
    with rt.transaction() as connection:
        statement = (
            "SELECT slot, outcome, attempts, finished_at IS NOT NULL FROM job_run WHERE job = 'a job' ORDER BY slot"
        )
        return [tuple(row) for row in connection.execute(text(statement))]


@pytest.mark.holds("lesson.restarted-schedule")
def test_two_ticks_of_one_due_time_are_one_run(rt: Runtime) -> None:
    assert run(rt, at=START + PERIOD / 3) == START + PERIOD / 3
    assert run(rt, at=START + PERIOD / 2) == Skipped()
    assert run(rt, at=START + PERIOD) == START + PERIOD
    assert runs(rt) == [(START, "done", 1, True), (START + PERIOD, "done", 1, True)]


def test_of_ticks_at_once_one_runs_and_the_others_skip(rt: Runtime) -> None:
    ticks = 3
    ready, skipped = Barrier(ticks), Event()

    def work(_: Runtime, now: datetime) -> datetime:
        assert skipped.wait(10)
        return now

    def tick(_: int) -> Any:
        ready.wait()
        answer = run(rt, work)
        if answer == Skipped():
            skipped.set()
        return answer

    with ThreadPoolExecutor(ticks) as pool:
        answers = list(pool.map(tick, range(ticks)))
    assert sorted(map(str, answers)) == sorted(map(str, [START, Skipped(), Skipped()]))


def test_a_call_by_hand_runs_at_once_whatever_the_schedule_says(rt: Runtime) -> None:
    assert run(rt) == START
    assert run(rt, scheduled=False) == START
    assert len(runs(rt)) == 1


def test_a_job_that_is_switched_off_takes_no_due_time(rt: Runtime) -> None:
    assert run_job(rt, "a job", None, at=START, scheduled=True, work=lambda _, now: now) == START
    assert runs(rt) == []


def test_the_retry_of_a_failed_run_runs_and_is_not_skipped(rt: Runtime) -> None:
    def fail(*_: object) -> None:
        raise RetryableError("the world is busy")

    for attempts in (1, 2):
        with pytest.raises(RetryableError):
            run(rt, fail)
        assert runs(rt) == [(START, "failed", attempts, True)]
    assert run(rt) == START
    assert run(rt) == Skipped()
    assert runs(rt) == [(START, "done", 3, True)]


def test_while_a_failed_run_is_repeated_its_due_time_is_taken(rt: Runtime) -> None:
    def fail(*_: object) -> None:
        raise PermanentError("no")

    with pytest.raises(PermanentError):
        run(rt, fail)
    assert run(rt, lambda *_: run(rt)) == Skipped()


def take_slot(rt: Runtime, slot: datetime, *, outcome: str | None = "done") -> None:
    """Take a due time as a worker with that time on its clock would."""
    with rt.transaction() as connection:
        statement = "INSERT INTO job_run (job, slot, outcome) VALUES ('a job', :slot, :outcome)"
        connection.execute(text(statement), {"slot": slot, "outcome": outcome})


@pytest.mark.holds("clocks.future-slot")
@pytest.mark.parametrize("outcome", ["done", None])
def test_a_slot_that_a_wrong_clock_took_is_run_when_its_time_comes(
    rt: Runtime, outcome: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    clock = TestClock(rt.redis)
    clock.advance(START)
    take_slot(rt, START + PERIOD, outcome=outcome)
    assert run(rt, at=None) == START
    (line,) = (each for each in capsys.readouterr().err.splitlines() if "job.slot_of_the_future" in each)
    assert json.loads(line)["level"] == "warning"
    clock.advance(START + PERIOD)
    assert run(rt, at=None) == START + PERIOD
    assert run(rt, at=None) == Skipped()
    assert runs(rt) == [(START, "done", 1, True), (START + PERIOD, "done", 2, True)]


@pytest.mark.holds("jobs.fresh")
def test_a_first_run_notes_since_when_the_other_jobs_are_scheduled(
    environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    environment["USAGE_RESET_USAGE_SCHEDULE"] = "24h"
    rt: Runtime = request.getfixturevalue("rt")
    TestClock(rt.redis).advance(START + HOUR)
    run(rt, at=None)
    with rt.transaction() as connection:
        lags = [
            list_job_standings(connection, {"usage.reset": DAY}, at=START + DAY + later)[0].lag_seconds
            for later in (-HOUR, HOUR)
        ]
    assert lags == [0, 3600]
    answer = run_job(rt, "usage.reset", DAY, at=None, scheduled=True, work=lambda _, now: now)
    assert answer == START + HOUR


NEVER_ENDED = "UPDATE job_run SET outcome = NULL, finished_at = NULL, started_at = clock_timestamp() - :age"


def test_a_run_that_was_killed_is_taken_over_as_soon_as_its_lock_is_free(rt: Runtime) -> None:
    run(rt)
    with rt.transaction() as connection:
        connection.execute(text(NEVER_ENDED), {"age": timedelta(0)})
    with held(rt.redis, "a job"):
        assert run(rt) == Skipped()
    assert run(rt) == START
    assert runs(rt) == [(START, "done", 2, True)]


def test_without_redis_a_run_that_never_ended_is_given_up_after_its_lease(rt: Runtime) -> None:
    run(rt)
    vars(rt)["redis"] = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    for age, answer in ((LEASE - timedelta(seconds=30), Skipped()), (LEASE, START)):
        with rt.transaction() as connection:
            connection.execute(text(NEVER_ENDED), {"age": age})
        assert run(rt) == answer


@pytest.mark.holds("clocks.set-back")
def test_a_lock_of_a_redis_whose_clock_was_set_back_holds_nobody_up(rt: Runtime) -> None:
    with held(rt.redis, "a job"):
        assert run(rt) == Skipped()
        rt.redis.pexpire("usage:lock:a job", HOUR)  # it would last that long if its clock were set back by an hour
        assert run(rt) == START


def test_a_run_that_began_later_than_the_database_shows_is_given_up_without_redis_too(rt: Runtime) -> None:
    run(rt)
    vars(rt)["redis"] = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    with rt.transaction() as connection:
        connection.execute(text(NEVER_ENDED), {"age": -HOUR})
    assert run(rt) == START


@pytest.mark.holds("jobs.one-run")
def test_of_three_workers_at_once_one_works_longer_than_the_lock_lasts_and_the_others_find_it_taken(
    rt: Runtime,
) -> None:
    working = Event()

    def work(fenced: Runtime, now: datetime) -> datetime:
        working.set()
        time.sleep(1.5)
        write(fenced)
        return now

    def tick(number: int) -> Any:
        return run_job(rt, "a job", None, at=START, scheduled=False, work=work, lock_lease=timedelta(seconds=1))

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(tick, 0)
        assert working.wait(10)
        time.sleep(1.2)
        assert list(pool.map(tick, range(2))) == [Skipped(), Skipped()]
        assert first.result() == START
    assert tick(3) == START
    assert written(rt) == 2


@pytest.mark.holds("jobs.lost-lock", "lesson.expired-lock")
@pytest.mark.parametrize("lost", ["flushed", "expired"])
def test_a_run_that_lost_its_lock_cannot_write_once_another_has_begun(rt: Runtime, lost: str) -> None:
    def work(fenced: Runtime, now: datetime) -> datetime:
        write(fenced)
        if lost == "flushed":
            rt.redis.flushdb()
        else:  # as after a pause that outlasted the lock
            rt.redis.delete("usage:lock:a job")
        with held(rt.redis, "a job") as state:
            assert state is LockState.HELD
        assert run(rt, newer) == START
        write(fenced)
        return now

    def newer(fenced: Runtime, now: datetime) -> datetime:
        write(fenced)
        return now

    with pytest.raises(StaleEpochError, match="a job: epoch 1 is over, another run has begun 2"):
        run(rt, work)
    assert written(rt) == 2
    assert runs(rt) == [(START, "done", 2, True)]
    assert run(rt) == Skipped()


@pytest.mark.holds("jobs.lost-lock")
def test_a_new_run_begins_only_when_what_the_old_one_writes_is_written(rt: Runtime) -> None:
    begun = Event()

    def newer(connection: Any) -> int:
        begun.set()
        return begin_epoch(connection, "a job").number

    with rt.transaction() as connection:
        old = rt.fenced(begin_epoch(connection, "a job"))
    with ThreadPoolExecutor(1) as pool:
        with old.transaction() as connection:
            future = pool.submit(in_transaction, rt, newer)
            assert begun.wait(10)
            time.sleep(0.2)
            assert not future.done()
        assert future.result(10) == 2
    with pytest.raises(StaleEpochError):
        write(old)


def in_transaction(rt: Runtime, work: Any) -> Any:
    with rt.transaction() as connection:
        return work(connection)


def write(rt: Runtime) -> None:
    """Leave a mark, as a job's transaction would."""
    with rt.transaction() as connection:
        connection.execute(text("INSERT INTO source_snapshot (source) VALUES (gen_random_uuid())"))


def written(rt: Runtime) -> int:
    with rt.transaction() as connection:
        return int(connection.execute(text("SELECT count(*) FROM source_snapshot")).scalar_one())


@pytest.mark.holds("lesson.restarted-schedule")
def test_a_scheduled_tick_runs_the_job_once_a_period(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    environment["USAGE_CONTROLLER_SCHEDULE"] = "15m"
    rt: Runtime = request.getfixturevalue("rt")
    TestClock(rt.redis).advance(START + DAY)
    with rt.transaction() as connection:
        record(connection, stopped_report(HOUR))
    shown = {"snapshot": "written", "snapshots_written": 1}
    assert call(ledger.reconcile_usage, scheduled=True) == QUIET_TICK | {"entries": 1, "credit_cents": 600} | shown
    assert call(ledger.reconcile_usage, scheduled=True) == {"skipped": 1}
    assert call(ledger.reconcile_usage) == QUIET_TICK | shown
    TestClock(rt.redis).advance(START + DAY + PERIOD)
    assert call(ledger.reconcile_usage, scheduled=True) == QUIET_TICK | shown


def test_the_ledger_job_posts_batch_after_batch_and_announces(rt: Runtime) -> None:
    with rt.transaction() as connection:
        record(connection, *(used_report(team(), 25_000, at=START + 10 * HOUR) for _ in range(2)))
    done = call(ledger.reconcile_usage, at=(START + DAY).isoformat())
    assert done == QUIET_TICK | {
        "entries": 2,
        "credit_cents": 50_000,
        "thresholds_reached": 2,
        "limits_reached": 1,
        "hard_limits_reached": 1,
    }


def test_the_reset_job_catches_up_and_ends(rt: Runtime) -> None:
    with rt.transaction() as connection:
        used(connection, team(), 80_000, at=START + HOUR)
    late = (START + 300 * DAY).isoformat()
    first = call(ledger.reset_usage, at=late)
    assert first["cycles"] >= 9
    assert call(ledger.reset_usage, at=late) == {"cycles": 0}
    assert call(maintenance.verify_ledger, at=late)


@pytest.mark.holds("cost-center.reset-failure", "lesson.green-metrics")
def test_an_account_that_fails_is_named_and_holds_up_no_other(rt: Runtime) -> None:
    accounts = [team(number) for number in range(3)]
    with rt.transaction() as connection:
        record(connection, *(used_report(each, 1000, at=START + DAY) for each in accounts))
        connection.execute(
            text(
                "CREATE FUNCTION refuse_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "RAISE EXCEPTION 'no reset today'; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER refuse_one BEFORE INSERT ON ledger_entry FOR EACH ROW "
                f"WHEN (NEW.kind = 'reset' AND NEW.attribution_id = '{accounts[1]}') EXECUTE FUNCTION refuse_one()"
            )
        )
    with pytest.raises(PermanentError) as failed:
        call(ledger.reset_usage, at=(MONTH + DAY).isoformat())
    assert str(failed.value).startswith("reset: 2 cycles ended, 1 accounts failed: ")
    assert f"{accounts[1]}: database: P0001 no reset today" in str(failed.value)
    with rt.transaction() as connection:
        covered = connection.execute(text("SELECT attribution_id FROM ledger_entry WHERE kind = 'reset'")).scalars()
        assert set(covered) == {accounts[0], accounts[2]}
        connection.execute(text("DROP TRIGGER refuse_one ON ledger_entry"))
        assert reset_due(connection, at=MONTH + DAY).cycles == 1


@pytest.mark.holds("lesson.green-metrics")
def test_verify_ends_in_error_with_a_sample(rt: Runtime) -> None:
    at = (START + DAY).isoformat()
    assert call(maintenance.verify_ledger, at=at)
    with rt.transaction() as connection:
        record(connection, stopped_report(HOUR))
    with pytest.raises(InvariantError, match="stopped_sessions_are_posted: 1 offend"):
        call(maintenance.verify_ledger, at=at)


def test_verify_runs_once_a_day_by_the_schedule(request: pytest.FixtureRequest, environment: dict[str, str]) -> None:
    environment["USAGE_CONTROLLER_SCHEDULE"] = "15m"
    rt: Runtime = request.getfixturevalue("rt")
    TestClock(rt.redis).advance(START + DAY)
    assert call(maintenance.verify_ledger, scheduled=True)["findings"]
    assert call(maintenance.verify_ledger, scheduled=True) == {"skipped": 1}
    with held(rt.redis, "maintenance.verify"):
        assert call(maintenance.verify_ledger)["findings"]


@pytest.mark.parametrize(
    ("period", "grace"),
    [
        (None, timedelta(minutes=10)),
        (timedelta(minutes=1), timedelta(minutes=10)),
        (timedelta(minutes=15), timedelta(minutes=30)),
    ],
)
def test_a_ledger_that_ticks_seldom_may_have_more_to_post(period: timedelta | None, grace: timedelta) -> None:
    assert grace_of(period) == grace


def test_what_verify_finds_is_a_metric_by_check_clean_or_not(rt: Runtime) -> None:
    def offenders(check: str) -> float | None:
        return REGISTRY.get_sample_value("usage_verify_offenders", {"check": check})

    at = (START + DAY).isoformat()
    with rt.transaction() as connection:
        record(connection, stopped_report(HOUR), stopped_report(HOUR))
    with pytest.raises(InvariantError):
        call(maintenance.verify_ledger, at=at)
    assert (offenders("stopped_sessions_are_posted"), offenders("balances_equal_entries")) == (2, 0)
    call(ledger.reconcile_usage, at=at)
    call(maintenance.verify_ledger, at=at)
    assert offenders("stopped_sessions_are_posted") == 0
    ended_at = REGISTRY.get_sample_value("usage_verify_ended_timestamp_seconds")
    assert ended_at is not None
    assert datetime.now(UTC).timestamp() - ended_at < 60
