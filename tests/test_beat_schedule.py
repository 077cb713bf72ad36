"""The schedule is data: which jobs tick, how often, and that each task accepts its tick."""

from collections import Counter
from datetime import timedelta
from typing import Any, Final

import pytest

from usage_tasks.celery import app
from usage_tasks.celery_files.beat_schedule import make_beat_schedule
from usage_tasks.runtime import Runtime
from usage_tasks.settings import Settings, load_settings
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS, DATABASE, LOST_WORKER_DELAY_SECONDS
from usage_tasks.telemetry.headers import TICK

SWEEPS: Final = {
    "billing.send_meter_events",
    "billing.release_holds",
    "billing.settle_doubts",
    "stripe.apply_events",
    "maintenance.dispatch_outbox",
}
JOBS: Final = {"CONTROLLER": "15m", "RESET_USAGE": "24h", "BILLING_SYNC": "10m", "INVOICE_RECONCILE": "30m"}


def installation(**schedules: str) -> Settings:
    periods = {f"USAGE_{name}_SCHEDULE": period for name, period in (JOBS | schedules).items()}
    return load_settings(
        {
            "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"small": 0.1}',
            "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 500, "forUsers": 100}',
        }
        | periods
    )


@pytest.mark.holds("lesson.registered-twice")
def test_each_job_of_the_schedule_is_a_task_of_ours_and_stands_there_once(rt: Runtime) -> None:
    app.loader.import_default_modules()
    ticks = make_beat_schedule(installation())
    assert Counter(tick["task"] for tick in ticks.values()) == Counter(dict.fromkeys(ticks, 1))
    for name, tick in ticks.items():
        assert name in app.tasks
        assert set(tick["kwargs"]) <= set(ARGUMENT_SCHEMAS[name]["properties"])
        assert set(ARGUMENT_SCHEMAS[name].get("required", [])) <= set(tick["kwargs"])
        assert tick["options"] == {"headers": {TICK: True}, "ignore_result": True}  # no time of beat's clock


def test_jobs_tick_as_they_are_configured_or_every_minute_and_name_their_due_time() -> None:
    ticks = make_beat_schedule(installation())
    jobs: dict[str, Any] = {name: tick["schedule"] for name, tick in ticks.items() if tick["kwargs"]}
    assert jobs == {
        "usage.reconcile": timedelta(minutes=1),
        "usage.reset": timedelta(minutes=1),
        "billing.sync": timedelta(minutes=1),
        "billing.reconcile_invoices": timedelta(minutes=1),
        "billing.advance_dunning": timedelta(minutes=1),
        "billing.drift_report": timedelta(minutes=1),
        "stripe.backfill_events": timedelta(minutes=1),
        "maintenance.verify": timedelta(minutes=1),
        "maintenance.prune": timedelta(minutes=1),
    }
    assert all(ticks[name]["kwargs"] == {"scheduled": True} for name in jobs)


@pytest.mark.holds("lesson.lost-enqueue")
def test_what_a_lost_message_would_have_done_is_swept_every_minute() -> None:
    ticks = make_beat_schedule(installation())
    assert {name for name, tick in ticks.items() if tick["schedule"] == timedelta(minutes=1)} >= SWEEPS


def test_an_empty_schedule_ticks_no_more() -> None:
    off = {"CONTROLLER": "", "RESET_USAGE": "", "BILLING_SYNC": "", "INVOICE_RECONCILE": "", "STRIPE_BACKFILL": ""}
    ticks = make_beat_schedule(installation(**off))
    assert set(ticks) == SWEEPS | {"billing.advance_dunning", "maintenance.prune"}


def test_a_message_comes_back_later_than_any_task_or_wait_can_last(rt: Runtime) -> None:
    app.loader.import_default_modules()
    patience = timedelta(seconds=app.conf.broker_transport_options["visibility_timeout"])
    ours: list[Any] = [task for name, task in app.tasks.items() if name in ARGUMENT_SCHEMAS]
    longest = max(timedelta(seconds=task.time_limit) for task in ours)
    # A message waits out its retry, then runs: it counts as taken all that time.
    assert longest + max(DATABASE.longest, timedelta(seconds=LOST_WORKER_DELAY_SECONDS)) < patience
    assert all(0 < task.soft_time_limit < task.time_limit for task in ours)
