"""Beat as a process runs it, but for the sleep between two turns. Its clock's jumps: tests/chaos/test_clocks.py."""

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.schedules import crontab

from tests.factories import START
from tests.tasks.test_task import as_if_delivered
from tests.worker.redis_faults import replica
from usage_tasks.coordination.celery_internals.answers import count_answers_as_lost
from usage_tasks.coordination.celery_internals.queues import list_key
from usage_tasks.coordination.clock import TestClock
from usage_tasks.coordination.keyspace import DEFAULT_PREFIX
from usage_tasks.coordination.ticks import may_send, note_begun
from usage_tasks.health import check_heartbeats
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.usage import ledger
from usage_tasks.telemetry.headers import TICK
from usage_tasks.worker.beat import BeatingScheduler

PERIOD = timedelta(milliseconds=50)
OURS = {"task": "usage.reconcile", "schedule": PERIOD, "kwargs": {}, "options": {"headers": {TICK: True}}}
THEIRS = {"task": "usage.theirs", "schedule": PERIOD, "kwargs": {}}


@pytest.fixture
def app(rt: Runtime) -> Iterator[Celery]:
    """An application on the test's broker that sends to the queues of ours."""
    made = Celery("beats", broker=rt.settings.redis_url, set_as_current=False)
    made.conf.update(
        broker_transport_options={"global_keyprefix": DEFAULT_PREFIX, "priority_steps": [0]},
        task_routes={"usage.*": {"queue": "usage"}},
        beat_max_loop_interval=5,
    )
    yield made
    made.close()


def beat(app: Celery, seconds: float, **entries: dict[str, Any]) -> BeatingScheduler:
    app.conf.beat_schedule = entries
    scheduler = BeatingScheduler(app=app)
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        time.sleep(min(scheduler.tick(), PERIOD.total_seconds()))
    return scheduler


def sent(rt: Runtime) -> list[str]:
    waiting: Any = rt.redis.lrange(list_key(rt.redis, "usage"), 0, -1)
    return [json.loads(each)["headers"]["task"] for each in reversed(waiting)]


def test_of_ticks_that_nobody_takes_one_waits_and_other_entries_go_on(rt: Runtime, app: Celery) -> None:
    beat(app, 1, ours=OURS, theirs=THEIRS)
    assert sent(rt).count("usage.reconcile") == 1
    assert sent(rt).count("usage.theirs") > 3


def test_two_beats_send_one_tick_and_a_worker_that_begins_it_gets_the_next(rt: Runtime, app: Celery) -> None:
    for _ in range(2):
        beat(app, 0.2, ours=OURS)
    assert sent(rt) == ["usage.reconcile"]
    note_begun(rt.redis, "usage.reconcile")
    beat(app, 0.2, ours=OURS)
    assert sent(rt) == 2 * ["usage.reconcile"]


def test_a_worker_that_begins_a_tick_makes_room_for_the_next(rt: Runtime) -> None:
    TestClock(rt.redis).advance(START)
    name = str(ledger.reconcile_usage.name)
    for request, next_one in (({}, False), ({TICK: True}, True)):
        assert may_send(rt.redis, name, queue="usage") or not next_one
        rt.redis.lpush(list_key(rt.redis, "usage"), "another message")
        with as_if_delivered(ledger.reconcile_usage, **request):
            ledger.reconcile_usage()
        assert may_send(rt.redis, name, queue="usage") is next_one
        note_begun(rt.redis, name)


def test_a_period_is_counted_by_a_clock_that_nobody_sets_and_a_crontab_by_the_host_s(app: Celery) -> None:
    scheduler = beat(app, 0, ours=OURS, nightly=OURS | {"schedule": crontab(hour="4")})
    ours, nightly = scheduler.schedule["ours"], scheduler.schedule["nightly"]
    assert abs(ours.default_now().timestamp() - time.monotonic()) < 5
    assert abs(nightly.default_now().timestamp() - time.time()) < 5


def test_a_crontab_that_ran_in_a_future_that_was_set_back_is_not_kept_back(app: Celery) -> None:
    scheduler = beat(app, 0, often=OURS | {"schedule": crontab()})
    entry = scheduler.schedule["often"]
    entry.last_run_at = entry.default_now() + timedelta(days=62)
    assert scheduler.tick() <= 60
    assert entry.last_run_at is not None
    assert entry.last_run_at <= entry.default_now()


def heartbeat_problem(directory: Path) -> str | None:
    ((_, problem),) = check_heartbeats(directory, "beat", live=False)
    return problem


def test_a_beat_whose_ticks_the_broker_does_not_take_is_reported_until_it_takes_them(
    rt: Runtime, app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_HEARTBEAT_DIR", str(tmp_path))
    monkeypatch.setattr("usage_tasks.health.STALLED_SECONDS_MAX", 1)
    app.conf.beat_schedule = {"theirs": THEIRS, "daily": THEIRS | {"schedule": timedelta(days=1)}}
    scheduler = BeatingScheduler(app=app)
    rt.redis.config_set("maxmemory", 1)
    try:
        ends_at = time.monotonic() + 3
        while time.monotonic() < ends_at:
            time.sleep(min(scheduler.tick(), PERIOD.total_seconds()))
        assert "a tick has been due and is not sent (no tick yet)" in str(heartbeat_problem(tmp_path))
    finally:
        rt.redis.config_set("maxmemory", 0)
    time.sleep(PERIOD.total_seconds())
    scheduler.tick()
    assert heartbeat_problem(tmp_path) is None
    scheduler.close()
    assert not list(tmp_path.glob("beat.*"))


def test_a_beat_with_nothing_due_for_a_day_or_whose_ticks_wait_for_a_worker_is_not_reported(
    rt: Runtime, app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_HEARTBEAT_DIR", str(tmp_path))
    monkeypatch.setattr("usage_tasks.health.STALLED_SECONDS_MAX", 1)
    for entries in ({"daily": OURS | {"schedule": timedelta(days=1)}}, {}, {"ours": OURS}):
        beat(app, 2.5, **entries).tick()
        assert heartbeat_problem(tmp_path) is None
    assert sent(rt) == ["usage.reconcile"]


def test_a_heartbeat_that_cannot_be_written_stops_no_beat(
    app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("USAGE_HEARTBEAT_DIR", str(tmp_path / "file" / "below"))
    beat(app, 0.2, ours=OURS).close()


@pytest.mark.holds("lesson.broker-answers")
def test_a_beat_lives_through_whatever_its_broker_answers_and_ticks_again(rt: Runtime, app: Celery) -> None:
    count_answers_as_lost()
    scheduler = beat(app, 0.2, theirs=THEIRS)
    with replica(rt.redis, Path()):
        before = len(sent(rt))
        for _ in range(3):
            scheduler.tick()
            time.sleep(PERIOD.total_seconds())
        assert len(sent(rt)) == before
    time.sleep(PERIOD.total_seconds())
    scheduler.tick()
    assert len(sent(rt)) > before
