"""`usage-tasks jobs`, the table of due times, and beat's ticks."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from tests.factories import DAY, HOUR, START
from usage_tasks.celery_files.beat_schedule import make_beat_schedule
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.runtime import Runtime
from usage_tasks.settings import load_settings
from usage_tasks.tasks.jobs import Skipped, run_job

MINUTE = timedelta(minutes=1)


def show(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = CliRunner().invoke(cli, ["jobs", "--json", *arguments])
    assert done.exit_code in {0, 1}, done.output
    return done.exit_code, {each["job"]: each for each in map(json.loads, done.stdout.splitlines())}


def run_all(rt: Runtime) -> None:
    for job, period in rt.settings.job_schedules.items():
        if period is not None:
            run_job(rt, job, period, at=None, scheduled=True, work=lambda _, now: now)


def test_jobs_show_what_ran_what_is_due_and_what_is_late(environment: dict[str, str], request: Any) -> None:
    environment["USAGE_CONTROLLER_SCHEDULE"] = "15m"
    rt: Runtime = request.getfixturevalue("rt")
    clock = TestClock(rt.redis)
    clock.advance(START + MINUTE)
    run_all(rt)
    code, jobs = show()
    done = jobs["usage.reconcile"]
    assert (code, done["outcome"], done["lag_seconds"], done["overdue"]) == (0, "done", 0, False)
    assert 0 <= done["duration_seconds"] < 5
    assert done["next_slot"].startswith("2026-01-01T00:15:00")
    assert (jobs["usage.reset"]["period_seconds"], jobs["usage.reset"]["outcome"]) == (None, "never")
    clock.advance(START + 15 * MINUTE + 5 * MINUTE)
    assert show()[1]["usage.reconcile"]["lag_seconds"] == 300
    clock.advance(START + 15 * MINUTE + 6 * MINUTE)
    code, jobs = show()
    assert (code, jobs["usage.reconcile"]["lag_seconds"], jobs["usage.reconcile"]["overdue"]) == (1, 360, True)
    run_all(rt)
    assert show()[0] == 0
    assert "15:00" in CliRunner().invoke(cli, ["jobs"]).output


@pytest.mark.holds("jobs.fresh")
def test_a_fresh_installation_is_not_late_before_its_first_due_times(environment: dict[str, str], request: Any) -> None:
    environment |= {"USAGE_CONTROLLER_SCHEDULE": "10m", "USAGE_RESET_USAGE_SCHEDULE": "24h"}
    rt: Runtime = request.getfixturevalue("rt")
    clock = TestClock(rt.redis)
    clock.advance(START + 15 * HOUR + MINUTE)
    assert CliRunner().invoke(cli, ["migrate"]).exit_code == 0
    assert (show()[0], {each["lag_seconds"] for each in show()[1].values()}) == (0, {0})
    clock.advance(START + 15 * HOUR + 16 * MINUTE)
    code, jobs = show()
    late = {job for job, each in jobs.items() if each["overdue"]}
    assert (code, jobs["usage.reconcile"]["lag_seconds"], jobs["usage.reset"]["lag_seconds"]) == (1, 360, 0)
    assert "usage.reconcile" in late
    assert not late & {"usage.reset", "maintenance.verify"}
    clock.advance(START + DAY + 6 * MINUTE)
    assert show()[1]["usage.reset"]["overdue"]


@pytest.mark.holds("clocks.future-slot")
def test_a_slot_of_the_future_is_said_and_hides_no_lag(environment: dict[str, str], request: Any) -> None:
    environment["USAGE_CONTROLLER_SCHEDULE"] = "15m"
    rt: Runtime = request.getfixturevalue("rt")
    clock = TestClock(rt.redis)
    clock.advance(START + MINUTE)
    run_all(rt)
    with rt.transaction() as connection:
        taken = "INSERT INTO job_run (job, slot, outcome) VALUES ('usage.reconcile', '2026-03-04 05:45Z', 'done')"
        connection.execute(text(taken))
    clock.advance(START + 30 * MINUTE)
    code, jobs = show()
    said = jobs["usage.reconcile"]
    assert (code, said["lag_seconds"], said["overdue"], said["outcome"]) == (1, 900, True, "done")
    assert said["future_slot"].startswith("2026-03-04T05:45")
    shown = " ".join(CliRunner(env={"COLUMNS": "250"}).invoke(cli, ["jobs"]).output.split())
    assert "a slot of the future: 2026-03-04 05:45:00, a clock was wrong" in shown


def test_a_daily_job_is_ticked_every_minute_so_that_deployments_do_not_starve_it(environment: dict[str, str]) -> None:
    environment |= {"USAGE_RESET_USAGE_SCHEDULE": "24h", "USAGE_CONTROLLER_SCHEDULE": "5s"}
    schedule = make_beat_schedule(load_settings(environment))
    assert schedule["usage.reset"]["schedule"] == MINUTE
    assert schedule["usage.reconcile"]["schedule"] == timedelta(seconds=5)


def test_an_hour_of_two_beats_runs_every_due_time_once_also_of_a_daily_job_after_restarts(rt: Runtime) -> None:
    ran: list[object] = []
    clock = TestClock(rt.redis)
    for minute in range(60):
        for second in (3, 41):  # two beats, each counting from its own start
            clock.advance(START + minute * MINUTE + timedelta(seconds=second))
            for period in (MINUTE, 10 * MINUTE, DAY):
                job = f"every {period}"
                answer = run_job(rt, job, period, at=None, scheduled=True, work=lambda _, now: now)
                ran += [] if answer == Skipped() else [job]
    assert [ran.count(f"every {period}") for period in (MINUTE, 10 * MINUTE, DAY)] == [60, 6, 1]
