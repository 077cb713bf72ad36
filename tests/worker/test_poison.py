"""Messages that were taken again and again: counted, set aside, listed, replayed."""

import base64
import json
from hashlib import sha256
from typing import Any

import pytest
from celery.exceptions import Retry as CeleryRetry
from typer.testing import CliRunner, Result

from tests.factories import START, call
from tests.tasks.test_task import ASKED, as_if_delivered
from tests.worker.malformed_shapes import make_item
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.coordination.dead_letters import REDELIVERIES_MAX, count_dead_letters
from usage_tasks.coordination.unreadable_messages import KEPT_BYTES_MAX, keep_unreadable, make_unreadable
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.usage import accounts
from usage_tasks.worker.poison import PoisonError


def deliver(*, redelivered: bool) -> Any:
    with as_if_delivered(accounts.get_balance, kwargs=ASKED, delivery_info={"redelivered": redelivered}):
        return call(accounts.get_balance, **ASKED)


def listed() -> list[dict[str, Any]]:
    done = CliRunner().invoke(cli, ["poison", "list"])
    assert done.exit_code == 0, done.output
    return [json.loads(each) for each in done.stdout.splitlines()]


@pytest.mark.holds("lesson.poison")
def test_a_message_that_is_redelivered_too_often_is_parked_and_can_be_replayed(rt: Runtime) -> None:
    TestClock(rt.redis).advance(START)
    for _ in range(REDELIVERIES_MAX):
        assert deliver(redelivered=True)["balance_cents"] == 0
    assert count_dead_letters(rt.redis) == 0
    with pytest.raises(PoisonError, match="redelivered 6 times"):
        deliver(redelivered=True)
    (parked,) = listed()
    assert (parked["task_id"], parked["task"], parked["kwargs"]) == ("a-task", "usage.get_balance", sorted(ASKED))
    assert CliRunner().invoke(cli, ["poison", "replay", "nothing"]).exit_code == 2
    assert CliRunner().invoke(cli, ["poison", "replay", "a-task"]).exit_code == 0
    (message,) = rt.redis.lrange("usage:usage", 0, -1)
    assert (json.loads(message)["headers"]["id"], listed()) == ("a-task", [])
    assert deliver(redelivered=True)["balance_cents"] == 0


@pytest.mark.holds("lesson.poison")
def test_what_comes_first_hand_is_not_counted(rt: Runtime) -> None:
    TestClock(rt.redis).advance(START)
    for _ in range(REDELIVERIES_MAX + 1):
        assert deliver(redelivered=False)["balance_cents"] == 0
    assert not rt.redis.exists("usage:taken:a-task")


def test_an_attempt_that_is_tried_again_begins_the_count_anew(rt: Runtime) -> None:
    with (
        as_if_delivered(accounts.get_balance, kwargs=ASKED | {"at": None}, delivery_info={"redelivered": True}),
        pytest.raises(CeleryRetry),  # the test clock stands nowhere yet
    ):
        call(accounts.get_balance, **ASKED | {"at": None})
    assert not rt.redis.exists("usage:taken:a-task")


@pytest.mark.parametrize("stored", ["{}", '{"colour": "red"}'])
def test_a_dead_letter_of_a_newer_version_is_listed(rt: Runtime, stored: str) -> None:
    letter = {"task_id": "t", "task": "usage.x", "args": [], "kwargs": {}, "reason": "r", "parked_at": "2026"}
    rt.redis.hset("usage:parked", "t", json.dumps(letter | json.loads(stored)))
    assert [each["task_id"] for each in listed()] == ["t"]


def keep(rt: Runtime, item: bytes, *, queue: str | None = "maintenance") -> str:
    message = make_unreadable(item, queue=queue, reason="it is odd", at=START, task="usage.x")
    keep_unreadable(rt.redis, message)
    return message.message_id


def poison(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["poison", *arguments])


def test_an_unreadable_message_is_listed_shown_and_dropped(rt: Runtime) -> None:
    message_id = keep(rt, b"\xff{}")
    (line,) = listed()
    assert (line["task_id"], line["unreadable"], line["queue"], line["length"]) == (message_id, True, "maintenance", 3)
    assert (line["reason"], line["task"], line["waits"]) == ("it is odd", "usage.x", False)
    shown = json.loads(poison("show", message_id).stdout)
    assert (base64.b64decode(shown["content"]), shown["content_is_base64"]) == (b"\xff{}", True)
    assert shown["sha256"] == sha256(b"\xff{}").hexdigest()
    assert poison("drop", message_id).exit_code == 0
    assert listed() == []
    assert poison("show", message_id).exit_code == 2


def test_an_unreadable_message_is_sent_again_as_it_was_once_it_can_be_read(rt: Runtime) -> None:
    item = make_item()
    assert poison("replay", keep(rt, item)).exit_code == 0
    assert (rt.redis.lrange("usage:maintenance", 0, -1), listed()) == ([item], [])


@pytest.mark.parametrize(
    ("item", "queue", "why"),
    [
        (b"{}", "maintenance", "it is still unreadable: content-type"),
        (b"x" * (KEPT_BYTES_MAX + 1), "maintenance", "only the first 65,536"),
        (make_item(), None, "it was in no queue"),
    ],
)
def test_what_cannot_be_sent_again_stays_with_a_reason(rt: Runtime, item: bytes, queue: str | None, why: str) -> None:
    message_id = keep(rt, item, queue=queue)
    done = poison("replay", message_id)
    assert done.exit_code == 2
    assert why in " ".join(done.output.replace("│", " ").split())
    assert [each["task_id"] for each in listed()] == [message_id]


def test_a_dead_letter_is_shown_with_the_names_of_its_arguments(rt: Runtime) -> None:
    letter = {
        "task_id": "t",
        "task": "usage.x",
        "args": [],
        "kwargs": {"secret": 5},
        "reason": "r",
        "parked_at": "2026",
    }
    rt.redis.hset("usage:parked", "t", json.dumps(letter))
    shown = json.loads(poison("show", "t").stdout)
    assert (shown["kwargs"], shown["unreadable"]) == (["secret"], False)
