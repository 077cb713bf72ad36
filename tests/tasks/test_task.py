import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import jsonschema_rs
import pytest
from celery.exceptions import Retry as CeleryRetry

from tests.factories import START, call, session_row, team
from usage_tasks.celery import app
from usage_tasks.domain.errors import DeclinedError, PermanentError, RetryableError
from usage_tasks.runtime import Runtime
from usage_tasks.tasks import directory, maintenance
from usage_tasks.tasks.billing import customers, payments, sync
from usage_tasks.tasks.stripe import events
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS, DATABASE, ArgumentsError, Retry, task
from usage_tasks.tasks.usage import accounts, credit, ledger, sessions

MODULES = (sync, accounts, credit, customers, directory, maintenance, payments, events, ledger, sessions)
ASKED = {"attribution_id": team(), "actor": "service:tests", "at": START.isoformat()}
RANGE = {"start": START.isoformat(), "end": START.isoformat()}
BAD_ARGUMENTS: list[tuple[str, dict[str, Any], str]] = [
    ("record_instances", {"instances": {}, "actor": "service:tests"}, "`instances`: must be a list (got an object)"),
    ("record_instances", {"instances": []}, "`actor`: must be given (got nothing)"),
    (
        "record_instances",
        {"instances": [1] * 5001, "actor": "service:tests"},
        "`instances`: must be at most 5000 items (got a list of 5001)",
    ),
    (
        "record_instances",
        {"instances": [], "actor": "nobody"},
        "`actor`: must be user:<id> or service:<name> (got 'nobody')",
    ),
    (
        "get_balance",
        ASKED | {"attribution_id": "x"},
        "`attribution_id`: must be team:<id> or user:<id> (got 'x')",
    ),
    ("get_balance", ASKED | {"at": "2026-01-01T00:00:00"}, "`at`: must be an ISO 8601 text with an offset"),
    (
        "get_balance",
        ASKED | {"at": 5},
        "`at`: must be an ISO 8601 text with an offset, such as 2026-01-31T12:00:00Z (got 5)",
    ),
    ("get_balance", ASKED | {"colour": "red"}, "`colour`: no such argument"),
    ("set_cost_center", ASKED, "`billing_strategy`: must be given (got nothing)"),
    (
        "set_cost_center",
        ASKED | {"billing_strategy": "free"},
        "`billing_strategy`: must be 'stripe' or 'other' (got 'free')",
    ),
    (
        "set_cost_center",
        ASKED | {"billing_strategy": "other", "spending_limit": -1},
        "`spending_limit`: must be at least 0 (got -1)",
    ),
    (
        "set_cost_center",
        ASKED | {"billing_strategy": "other", "spending_limit": 1.5},
        "`spending_limit`: must be a whole number (got 1.5)",
    ),
    ("list_usage", ASKED | RANGE | {"order": "random"}, "`order`: must be 'ascending' or 'descending' (got 'random')"),
]


@contextmanager
def as_if_delivered(task: Any, **request: Any) -> Iterator[None]:
    """Calls in the block run as if a worker had taken them from the queue."""
    delivered = {"id": "a-task", "called_directly": False, "retries": 0, "args": [], "kwargs": {}}
    task.push_request(**(delivered | request))
    try:
        yield
    finally:
        task.pop_request()


@pytest.mark.holds("cost-center.no-strategy")
def test_bad_arguments_fail_at_once_by_their_names_and_are_not_tried_again(
    rt: Runtime, subtests: pytest.Subtests
) -> None:
    for name, arguments, told in BAD_ARGUMENTS:
        task = getattr(sessions if name == "record_instances" else accounts, name)
        with subtests.test(told), as_if_delivered(task):
            with pytest.raises(ArgumentsError) as refused:
                task(**arguments)
            assert str(refused.value).startswith(told)
            assert isinstance(refused.value, PermanentError)
            assert rt.redis.llen("usage:usage") == 0


def test_a_refused_value_is_not_tried_again(rt: Runtime) -> None:
    with (
        as_if_delivered(accounts.list_usage),
        pytest.raises(PermanentError, match=r"`page`: must be from 0 to .* \(got -1\)"),
    ):
        call(accounts.list_usage, **ASKED, **RANGE, page=-1)
    assert rt.redis.llen("usage:usage") == 0


def test_what_may_succeed_later_is_tried_again_under_the_same_id(rt: Runtime) -> None:
    arguments = {"instances": [session_row()], "actor": "service:tests"}  # the test clock is not set yet
    with as_if_delivered(sessions.record_instances, kwargs=arguments), pytest.raises(CeleryRetry) as again:
        call(sessions.record_instances, **arguments)
    assert isinstance(again.value.exc, RetryableError)
    (message,) = rt.redis.lrange("usage:usage", 0, -1)
    headers = json.loads(message)["headers"]
    assert (headers["task"], headers["id"], headers["retries"]) == ("usage.record_instances", "a-task", 1)
    assert headers["eta"] is not None


def test_after_the_last_attempt_the_error_stands(rt: Runtime) -> None:
    arguments = {"instances": [], "actor": "service:tests"}
    attempts = {"retries": DATABASE.attempts_max, "kwargs": arguments}
    with as_if_delivered(sessions.record_instances, **attempts), pytest.raises(RetryableError, match="test clock"):
        call(sessions.record_instances, **arguments)
    assert rt.redis.llen("usage:usage") == 0


def test_the_wait_doubles_within_its_bounds() -> None:
    policy = Retry(attempts_max=8, first=timedelta(seconds=1), longest=timedelta(seconds=10))
    for retries, longest in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 10), (1000, 10)]:
        assert longest / 2 <= policy.countdown_seconds(retries) <= longest


@pytest.mark.holds("stripe.task-retry-after")
def test_what_stripe_asks_to_wait_is_waited_within_the_bounds(rt: Runtime) -> None:
    policy = Retry(attempts_max=8, first=timedelta(seconds=1), longest=timedelta(seconds=10))
    assert policy.countdown_seconds(0, asked=timedelta(seconds=7)) == 7
    assert policy.countdown_seconds(0, asked=timedelta(hours=1)) == 10
    assert 5 <= policy.countdown_seconds(9, asked=timedelta(seconds=1)) <= 10


@pytest.mark.holds("stripe.task-retry-after")
def test_a_task_that_stripe_puts_off_comes_back_when_stripe_said(rt: Runtime) -> None:
    @task(name="billing.asked_to_wait", time_limit=timedelta(seconds=1))
    def put_off() -> None:
        raise RetryableError("busy", retry_after=timedelta(seconds=41))

    try:
        with as_if_delivered(put_off), pytest.raises(CeleryRetry) as retried:
            put_off()
        assert retried.value.when == 41
    finally:
        app.tasks.pop("billing.asked_to_wait")
        ARGUMENT_SCHEMAS.pop("billing.asked_to_wait")


def test_errors_keep_what_they_carry_between_processes() -> None:
    for error in (RetryableError("busy", retry_after=timedelta(seconds=3)), DeclinedError("no", "insufficient_funds")):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - what the pool does
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_every_task_exports_a_schema_of_its_arguments(rt: Runtime) -> None:
    ours = {name for name in app.tasks if not name.startswith("celery.")}
    assert {name.partition(".")[0] for name in ours} == {"billing", "directory", "maintenance", "stripe", "usage"}
    assert ours == set(ARGUMENT_SCHEMAS)
    for schema in ARGUMENT_SCHEMAS.values():
        assert jsonschema_rs.meta.is_valid(schema)
        assert schema["additionalProperties"] is False


def test_a_schema_takes_what_its_task_takes_and_refuses_what_it_refuses() -> None:
    validator = jsonschema_rs.validator_for(ARGUMENT_SCHEMAS["usage.set_cost_center"])
    assert validator.is_valid(ASKED | {"billing_strategy": "other", "spending_limit": 7})
    assert not validator.is_valid(ASKED)
    assert not validator.is_valid(ASKED | {"billing_strategy": "free"})
    assert not validator.is_valid(ASKED | {"billing_strategy": "other", "spending_limit": -1})
    assert not validator.is_valid(ASKED | {"billing_strategy": "other", "colour": "red"})
