"""The exporter's figures, from a real broker and a real database."""

import logging
import time
from typing import Any

import pytest
from celery import Celery
from prometheus_client.openmetrics.exposition import generate_latest
from sqlalchemy import text
from structlog.contextvars import bound_contextvars

from tests.database_clock import set_database_clock
from tests.factories import DAY, HOUR, START, record, session_report, stopped_report
from usage_tasks.celery import app
from usage_tasks.commands.operations.exporter import registry_of
from usage_tasks.coordination.clock import TestClock
from usage_tasks.runtime import Runtime


def figures(rt: Runtime) -> dict[str, float]:
    lines = generate_latest(registry_of(rt)).decode().splitlines()  # type: ignore[no-untyped-call]  # the library has none
    return {
        name: float(value) for name, _, value in (each.rpartition(" ") for each in lines if not each.startswith("#"))
    }


def sender(rt: Runtime) -> Celery:
    """An app that sends to the test's broker; its signals are those of ours."""
    assert app.main == "usage_tasks"
    made = Celery("sender", broker=rt.settings.redis_url, set_as_current=False)
    made.conf.broker_transport_options = {"global_keyprefix": "usage:"}
    return made


def test_queues_show_how_many_wait_and_since_when(rt: Runtime) -> None:
    TestClock(rt.redis).advance(START)
    assert figures(rt)['usage_queue_depth_messages{queue="usage"}'] == 0
    sending = sender(rt)
    for _ in range(2):
        sending.send_task("usage.list", queue="usage")
    time.sleep(0.3)
    sending.send_task("usage.list", queue="usage")
    seen = figures(rt)
    assert seen['usage_queue_depth_messages{queue="usage"}'] == 3
    assert 0.3 <= seen['usage_queue_oldest_message_age_seconds{queue="usage"}'] < 10
    assert seen['usage_queue_oldest_message_age_seconds{queue="billing"}'] == 0
    assert seen['usage_exporter_up{part="broker"}'] == 1


def test_the_tables_show_what_is_late(rt: Runtime) -> None:
    TestClock(rt.redis).advance(START + DAY)
    with rt.transaction() as connection:
        record(connection, stopped_report(HOUR), session_report(started_at=START + 23 * HOUR))
    seen = figures(rt)
    assert (seen['usage_unbilled_seconds{state="stopped"}'], seen['usage_unbilled_seconds{state="running"}']) == (
        3600,
        3600,
    )
    assert seen['usage_pending_rows{what="unposted_session"}'] == 1
    assert seen["usage_unposted_oldest_age_seconds"] == 23 * 3600
    assert seen['usage_job_lag_seconds{job="billing.sync"}'] == 0
    assert seen['usage_exporter_up{part="database"}'] == 1


def test_clocks_that_differ_and_slots_of_the_future_are_shown(rt: Runtime, database_url: str) -> None:
    TestClock(rt.redis).advance(START)
    seen = figures(rt)
    assert abs(seen['usage_clock_skew_seconds{peer="database"}']) < 2
    assert abs(seen['usage_clock_skew_seconds{peer="redis"}']) < 2
    assert seen["usage_database_clock_set_back_seconds"] == 0
    assert seen['usage_job_slot_of_the_future{job="usage.reconcile"}'] == 0
    with rt.transaction() as connection:
        taken = "INSERT INTO job_run (job, slot, outcome) VALUES ('usage.reconcile', :slot, 'done')"
        connection.execute(text(taken), {"slot": START + HOUR})
    set_database_clock(database_url, -HOUR)
    rt.database.dispose()
    seen = figures(rt)
    assert seen['usage_clock_skew_seconds{peer="database"}'] == pytest.approx(-3600, abs=2)
    assert seen["usage_database_clock_set_back_seconds"] == pytest.approx(3600, abs=5)
    assert seen['usage_job_slot_of_the_future{job="usage.reconcile"}'] == 1


def test_a_request_s_id_travels_from_the_sender_to_the_message(rt: Runtime, caplog: Any) -> None:
    caplog.set_level(logging.ERROR)
    with bound_contextvars(request_id="a-request"):
        sender(rt).send_task("usage.list", queue="usage")
    assert b'"request_id": "a-request"' in rt.redis.lindex("usage:usage", -1)  # type: ignore[operator]
