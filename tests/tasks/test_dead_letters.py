"""Messages that failed after their last attempt: kept for an operator, if nobody else would send them again."""

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from celery.exceptions import Retry as CeleryRetry
from sqlalchemy import text
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from tests.conftest import Administer
from tests.factories import START, call, session_row
from tests.storage.test_engine import read_only
from tests.tasks.test_task import as_if_delivered
from usage_tasks.celery import app
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.coordination.dead_letters import DeadLetter, list_dead_letters
from usage_tasks.domain.errors import InvariantError, PermanentError, RetryableError
from usage_tasks.runtime import Runtime
from usage_tasks.storage.engine import Database
from usage_tasks.tasks.stripe import events
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS, DATABASE, task
from usage_tasks.tasks.usage import sessions

LAST = {"retries": DATABASE.attempts_max, "ignore_result": True}
EVENT: dict[str, Any] = {
    "event_id": "evt_1",
    "payload": json.dumps(
        {
            "id": "evt_1",
            "object": "event",
            "type": "customer.created",
            "created": int(START.timestamp()),
            "data": {"object": {"id": "cus_1", "object": "customer"}},
        }
    ),
}


def reports() -> dict[str, Any]:
    return {"instances": [session_row()], "actor": "service:tests"}


def stored(rt: Runtime) -> int:
    """Count the sessions and the events."""
    statement = "SELECT (SELECT count(*) FROM workspace_instance) + (SELECT count(*) FROM stripe_event)"
    with rt.transaction() as connection:
        return int(connection.execute(text(statement)).scalar_one())


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """With keys for Stripe, which no task of these tests calls."""
    return environment | {"STRIPE_SECRET_KEY": "sk_test_nobody", "STRIPE_WEBHOOK_SECRET": "whsec_nobody"}


@pytest.fixture
def rt(rt: Runtime) -> Runtime:
    TestClock(rt.redis).advance(START)
    return rt


def fail(delivered: Any, arguments: dict[str, Any], error: type[Exception], **request: Any) -> None:
    with as_if_delivered(delivered, kwargs=arguments, **request), pytest.raises(error):
        call(delivered, **arguments)


def test_the_attempts_outlast_a_database_that_is_read_only_for_ten_minutes() -> None:
    shortest = sum(
        min(DATABASE.countdown_seconds(retries) for _ in range(50)) for retries in range(DATABASE.attempts_max)
    )
    assert shortest > timedelta(minutes=10).total_seconds()


@pytest.mark.parametrize(
    ("name", "arguments"), [("usage.record_instances", reports()), ("stripe.receive_event", EVENT)]
)
def test_what_meets_a_read_only_database_is_tried_again_and_takes_effect(
    rt: Runtime, database_url: str, administer: Administer, name: str, arguments: dict[str, Any]
) -> None:
    delivered = app.tasks[name]
    with read_only(rt.database, database_url, administer):
        fail(delivered, arguments, CeleryRetry, ignore_result=True)
    (message,) = rt.redis.lrange(f"usage:{name.partition('.')[0]}", 0, -1)
    headers = json.loads(message)["headers"]
    assert (headers["retries"], headers["ignore_result"]) == (1, True)
    with as_if_delivered(delivered, kwargs=arguments, retries=1):
        call(delivered, **arguments)
    assert stored(rt) == 1


@pytest.mark.parametrize("changed", [{"database": "nowhere"}, {"username": "nobody"}])
def test_a_worker_goes_on_trying_with_settings_that_a_server_does_not_accept(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    wrong = make_url(rt.settings.sqlalchemy_url).set(**changed)
    monkeypatch.setitem(vars(rt), "database", Database(wrong.render_as_string(hide_password=False)))
    fail(sessions.record_instances, reports(), CeleryRetry, ignore_result=True)
    assert rt.redis.llen("usage:usage") == 1


def test_what_fails_after_the_last_attempt_is_kept_and_can_be_sent_again(
    rt: Runtime, database_url: str, administer: Administer
) -> None:
    arguments = reports()
    with read_only(rt.database, database_url, administer):
        fail(sessions.record_instances, arguments, RetryableError, **LAST)
    (kept,) = list_dead_letters(rt.redis)
    assert (kept.task_id, kept.task, kept.kwargs) == ("a-task", "usage.record_instances", arguments)
    assert kept.reason.startswith("31 attempts: database: 25006 ")
    assert CliRunner().invoke(cli, ["poison", "replay", "a-task"]).exit_code == 0
    (message,) = rt.redis.lrange("usage:usage", 0, -1)
    assert (json.loads(message)["headers"]["id"], list_dead_letters(rt.redis)) == ("a-task", [])


@pytest.mark.parametrize(
    "request_",
    [{"ignore_result": False}, {"expires": "2099-01-01T00:01:00+00:00"}, {"called_directly": True}],
)
def test_what_somebody_waits_for_or_sends_again_is_not_kept(
    rt: Runtime, database_url: str, administer: Administer, request_: dict[str, Any]
) -> None:
    with read_only(rt.database, database_url, administer):
        fail(sessions.record_instances, reports(), RetryableError, **(LAST | request_))
    assert list_dead_letters(rt.redis) == []


def test_what_only_asks_for_work_that_a_sweep_finds_is_not_kept(rt: Runtime) -> None:
    @task(name="billing.asks_for_work", time_limit=timedelta(seconds=1))
    def ask() -> None:
        raise RetryableError("busy")

    try:
        fail(ask, {}, RetryableError, **LAST)
    finally:
        app.tasks.pop("billing.asks_for_work")
        ARGUMENT_SCHEMAS.pop("billing.asks_for_work")
    assert list_dead_letters(rt.redis) == []


def test_what_the_database_refuses_for_good_is_kept_at_once(rt: Runtime) -> None:
    with rt.transaction() as connection:
        connection.execute(text("ALTER TABLE stripe_event ADD CONSTRAINT none CHECK (event_id = '')"))
    fail(events.receive_event, EVENT, InvariantError, ignore_result=True)
    kept: DeadLetter
    (kept,) = list_dead_letters(rt.redis)
    assert (kept.task, kept.reason[:15]) == ("stripe.receive_event", "database: 23514")


def test_without_redis_the_error_of_the_task_stands(rt: Runtime) -> None:
    rt.redis.set("usage:parked", "not a hash")
    with rt.transaction() as connection:
        connection.execute(text("ALTER TABLE stripe_event ADD CONSTRAINT none CHECK (event_id = '')"))
    fail(events.receive_event, EVENT, InvariantError, ignore_result=True)


@pytest.mark.parametrize(
    ("sqlstate", "state"), [("25006", "pending"), ("42P01", "pending"), ("26000", "pending"), ("23514", "parked")]
)
def test_an_event_that_meets_an_error_that_passes_waits_and_is_not_parked(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch, sqlstate: str, state: str
) -> None:
    event = json.loads(EVENT["payload"]) | {"type": "plan.created"}
    call(events.receive_event, event_id="evt_1", payload=json.dumps(event))
    with rt.transaction() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{sqlstate}'; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER failing BEFORE UPDATE ON stripe_event FOR EACH ROW "
                "WHEN (NEW.state = 'applied') EXECUTE FUNCTION fail()"
            )
        )
    with as_if_delivered(events.apply_events), suppress(PermanentError):  # it reports its parked events
        call(events.apply_events)
    with rt.transaction() as connection:
        row = connection.execute(text("SELECT state, attempts, outcome FROM stripe_event")).one()
        assert (row.state, row.attempts) == (state, 1)
        assert sqlstate in row.outcome
        connection.execute(text("DROP TRIGGER failing ON stripe_event"))
        connection.execute(text("UPDATE stripe_event SET next_attempt_at = clock_timestamp()"))
    call(events.apply_events)
    with rt.transaction() as connection:
        later = connection.execute(text("SELECT state FROM stripe_event")).scalar_one()
    assert later == ("applied" if state == "pending" else "parked")
