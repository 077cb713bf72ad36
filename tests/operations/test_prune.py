"""History is deleted when it is old, and nothing that somebody goes by."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.factories import DAY, HOUR, START, call, team, used
from usage_tasks.coordination.clock import TestClock
from usage_tasks.runtime import Runtime
from usage_tasks.services.operations.job_standings import list_job_standings
from usage_tasks.services.operations.prune import BATCH, Pruned, Retention, prune
from usage_tasks.storage.operations import jobs, pruning
from usage_tasks.storage.operations.backlog import read_backlog
from usage_tasks.tasks import maintenance
from usage_tasks.tasks.jobs import Skipped, run_job
from usage_tasks.tasks.usage import ledger

JOB = "usage.reconcile"
NOW = START + 400 * DAY
KEPT = Retention(job_runs=90 * DAY, sent_announcements=90 * DAY)
MINUTE = timedelta(minutes=1)


def plant_runs(rt: Runtime, count: int, *, job: str = JOB, outcome: str | None = "done", until: datetime = NOW) -> None:
    """A run a day up to an instant, each started and ended at its slot."""
    statement = """
        INSERT INTO job_run (job, slot, started_at, finished_at, outcome)
        SELECT CAST(:job AS text), at, at, at, CAST(:outcome AS text)
        FROM (SELECT CAST(:until AS timestamptz) - n * interval '1 day' AS at
              FROM generate_series(0, CAST(:count AS int) - 1) AS n) AS planted
    """
    with rt.transaction() as connection:
        connection.execute(text(statement), {"job": job, "outcome": outcome, "until": until, "count": count})
        connection.execute(
            text("INSERT INTO job_epoch (job, epoch) VALUES (:job, 1) ON CONFLICT DO NOTHING"), {"job": job}
        )


def slots(rt: Runtime, job: str = JOB) -> list[datetime]:
    with rt.transaction() as connection:
        statement = "SELECT slot FROM job_run WHERE job = :job ORDER BY slot"
        return list(connection.execute(text(statement), {"job": job}).scalars())


def prune_now(rt: Runtime, *, at: datetime = NOW, longest: timedelta = MINUTE) -> Pruned:
    return prune(rt.transaction, KEPT, at=at, longest=longest)


def looks(rt: Runtime) -> Any:
    schedules = dict.fromkeys((JOB, "a job that fails", "an old job"), DAY)
    with rt.transaction() as connection:
        return (
            list_job_standings(connection, schedules, at=NOW),
            jobs.find_set_back(connection, list(schedules)) > timedelta(0),
            read_backlog(connection, at=NOW),
        )


@pytest.mark.holds("jobs.pruned")
def test_runs_older_than_they_are_kept_go_and_every_look_shows_the_same(rt: Runtime) -> None:
    plant_runs(rt, 400)
    plant_runs(rt, 400, job="a job that fails", outcome="failed")
    plant_runs(rt, 1, job="a job that fails", until=NOW - 350 * DAY - HOUR)
    plant_runs(rt, 9, job="an old job", until=NOW - 200 * DAY)
    before = looks(rt)
    assert prune_now(rt) == Pruned(job_runs=309 + 309 + 8, sent_announcements=0, more=False)
    assert looks(rt) == before
    assert slots(rt)[0] == NOW - 90 * DAY
    assert slots(rt, "a job that fails")[:2] == [NOW - 350 * DAY - HOUR, NOW - 90 * DAY]
    assert slots(rt, "an old job") == [NOW - 200 * DAY]
    assert prune_now(rt).job_runs == 0


def test_the_latest_by_start_or_end_stays_though_its_slot_is_old(rt: Runtime) -> None:
    plant_runs(rt, 400)
    old = NOW - 300 * DAY
    with rt.transaction() as connection:
        connection.execute(
            text("UPDATE job_run SET started_at = :at, finished_at = :at WHERE slot = :slot"),
            {"at": NOW + HOUR, "slot": old},
        )
    before = looks(rt)
    prune_now(rt)
    assert old in slots(rt)
    assert looks(rt) == before


def test_a_run_that_goes_on_stays_and_one_that_was_abandoned_goes(rt: Runtime) -> None:
    plant_runs(rt, 1)
    plant_runs(rt, 3, outcome=None, until=NOW - 100 * DAY)
    with rt.transaction() as connection:
        connection.execute(
            text("UPDATE job_run SET started_at = clock_timestamp() WHERE slot = :slot"), {"slot": NOW - 101 * DAY}
        )
        connection.execute(
            text("UPDATE job_run SET started_at = :at WHERE slot = :slot"), {"at": NOW + HOUR, "slot": NOW}
        )
    prune_now(rt)
    assert slots(rt) == [NOW - 101 * DAY, NOW]


@pytest.mark.holds("jobs.pruned")
@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_a_slot_whose_row_was_pruned_is_never_run_again(rt: Runtime, outcome: str) -> None:
    plant_runs(rt, 200, outcome=outcome)
    prune_now(rt)
    for slot in (NOW - 199 * DAY, NOW - 91 * DAY, NOW - 150 * DAY):
        assert run_job(rt, JOB, DAY, at=slot + HOUR, scheduled=True, work=lambda _, now: now) == Skipped()
    assert len(slots(rt)) == 91
    assert run_job(rt, JOB, DAY, at=NOW + DAY, scheduled=True, work=lambda _, now: now) == NOW + DAY


def test_a_slot_that_is_claimed_while_it_is_pruned_is_not_run(rt: Runtime) -> None:
    plant_runs(rt, 200, outcome="failed")
    slot = NOW - 150 * DAY

    def claim() -> int | None:
        with rt.transaction() as connection:
            return jobs.claim_slot(connection, JOB, slot, lease=HOUR)

    with ThreadPoolExecutor(1) as pool:
        with rt.transaction() as connection:
            pruning.prune_job_runs(connection, JOB, before=NOW - 90 * DAY, limit=BATCH)
            claimed = pool.submit(claim)
            while not connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one():
                assert not claimed.done()
        assert claimed.result(10) is None
    assert slot not in slots(rt)


def test_a_slot_that_is_being_claimed_is_not_pruned(rt: Runtime) -> None:
    plant_runs(rt, 200, outcome="failed")
    slot = NOW - 150 * DAY
    with rt.transaction() as connection:
        assert jobs.claim_slot(connection, JOB, slot, lease=HOUR) == 2
        assert prune_now(rt).job_runs == 200 - 91 - 1
    assert slots(rt)[0] == slot


def test_what_a_clock_far_ahead_pruned_stops_no_job_for_longer_than_a_slot(rt: Runtime) -> None:
    plant_runs(rt, 200, until=START + 400 * DAY)
    prune_now(rt, at=START + 1000 * DAY)
    assert slots(rt) == [START + 400 * DAY]
    for now, answer in ((START, Skipped()), (START + DAY, START + DAY)):
        TestClock(rt.redis).advance(now)
        assert run_job(rt, JOB, DAY, at=None, scheduled=True, work=lambda _, now: now) == answer


def test_two_at_once_delete_each_row_once_and_wait_for_nobody(rt: Runtime) -> None:
    plant_runs(rt, 3 * BATCH, until=NOW)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: prune_now(rt), range(2)))
    assert sum(each.job_runs for each in done) + prune_now(rt).job_runs == 3 * BATCH - 91


def test_a_run_without_time_deletes_nothing_more(rt: Runtime) -> None:
    plant_runs(rt, 200)
    assert prune_now(rt, longest=timedelta(0)) == Pruned(job_runs=0, sent_announcements=0, more=True)


SENT = """
    INSERT INTO outbox (key, task, payload, dispatched_at)
    SELECT t.task || n, t.task, '{}', clock_timestamp() - n * interval '30 days'
    FROM (VALUES ('server.usage_limit_reached'), ('server.usage_hard_limit_reached'),
                 ('server.usage_threshold_reached'), ('server.refund_failed'), ('server.suspend_account')) AS t(task),
         generate_series(1, 5) AS n
"""


def test_of_what_was_sent_only_that_goes_which_is_remembered_elsewhere(rt: Runtime) -> None:
    with rt.transaction() as connection:
        connection.execute(text(SENT))
        connection.execute(
            text("INSERT INTO outbox (key, task, payload) VALUES ('k', 'server.usage_limit_reached', '{}')")
        )
    assert prune_now(rt).sent_announcements == 3 * 3
    with rt.transaction() as connection:
        left = connection.execute(text("SELECT task, count(*) FROM outbox GROUP BY task ORDER BY task")).all()
    assert [tuple(row) for row in left] == [
        ("server.refund_failed", 5),
        ("server.suspend_account", 5),
        ("server.usage_hard_limit_reached", 2),
        ("server.usage_limit_reached", 3),
        ("server.usage_threshold_reached", 2),
    ]


def test_a_level_whose_announcement_was_pruned_is_not_announced_again(rt: Runtime) -> None:
    at = (START + DAY).isoformat()
    with rt.transaction() as connection:
        used(connection, team(), 50_000, at=START + DAY)
    assert call(ledger.reconcile_usage, at=at)["limits_reached"] == 1
    with rt.transaction() as connection:
        connection.execute(text("UPDATE outbox SET dispatched_at = clock_timestamp() - interval '100 days'"))
    assert prune_now(rt).sent_announcements == 4
    assert call(ledger.reconcile_usage, at=at)["limits_reached"] == 0


def test_the_job_prunes_by_the_settings_once_an_hour(
    environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    environment["USAGE_RETENTION__JOB_RUNS"] = "240h"
    environment["USAGE_RETENTION__SENT_ANNOUNCEMENTS"] = ""
    rt: Runtime = request.getfixturevalue("rt")
    TestClock(rt.redis).advance(NOW)
    plant_runs(rt, 100)
    with rt.transaction() as connection:
        connection.execute(text(SENT))
    assert call(maintenance.prune_history, scheduled=True) == {"job_runs": 89, "sent_announcements": 0, "more": False}
    assert call(maintenance.prune_history, scheduled=True) == {"skipped": 1}
    assert rt.settings.job_schedules["maintenance.prune"] == HOUR


def test_without_a_retention_the_job_is_off(environment: dict[str, str], request: pytest.FixtureRequest) -> None:
    environment["USAGE_RETENTION__JOB_RUNS"] = environment["USAGE_RETENTION__SENT_ANNOUNCEMENTS"] = ""
    rt: Runtime = request.getfixturevalue("rt")
    assert rt.settings.job_schedules["maintenance.prune"] is None
    plant_runs(rt, 200)
    assert call(maintenance.prune_history, at=NOW.isoformat())["job_runs"] == 0
