"""Two versions of a worker: what the older one does not know waits for the newer one, and is listed meanwhile."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.exceptions import NotRegistered
from celery.result import AsyncResult
from typer.testing import CliRunner

from tests.worker.workers import Workers, wait_until
from usage_tasks.cli import cli
from usage_tasks.coordination.dead_letters import list_dead_letters
from usage_tasks.coordination.waiting_messages import count_waiting, list_waiting
from usage_tasks.runtime import Runtime
from usage_tasks.worker.waiting import ANSWER_AFTER

pytestmark = pytest.mark.timeout(150)
OLDER, NEWER = "tests.worker.older_app", "tests.worker.newer_app"
NEWS: dict[str, tuple[str, dict[str, Any]]] = {
    "task": ("maintenance.added", {}),
    "argument": ("maintenance.grown", {"size": 3}),
    "field": ("maintenance.grown", {"shape": {"corners": 4, "colour": "red"}}),
}


def send_news(workers: Workers, **options: Any) -> dict[str, str]:
    """Send what only the newer version knows; return the ids by what is new."""
    return {
        mark: workers.send(task, kwargs={"mark": mark} | arguments, task_id=f"new {mark}", **options)
        for mark, (task, arguments) in NEWS.items()
    }


def listed() -> dict[str, dict[str, Any]]:
    """The messages that `usage-tasks poison list` shows, by id."""
    done = CliRunner().invoke(cli, ["poison", "list"])
    assert done.exit_code == 0, done.output
    return {each["task_id"]: each for each in map(json.loads, done.stdout.splitlines())}


def run(*arguments: str) -> int:
    return CliRunner().invoke(cli, ["poison", *arguments]).exit_code


def test_what_an_older_worker_does_not_know_waits_for_a_newer_one(workers: Workers, rt: Runtime) -> None:
    workers.start("older", "--concurrency=1", app=OLDER)
    ids = send_news(workers, ignore_result=True)
    wait_until(lambda: count_waiting(workers.redis) == len(NEWS))
    assert rt.redis.hlen("usage:unacked") == 0
    shown = listed()
    assert {shown[each]["waits"] for each in ids.values()} == {True}
    assert shown[ids["task"]]["reason"] == "no task of the name maintenance.added in this version"
    assert shown[ids["argument"]]["reason"] == "`size`: no such argument"
    assert shown[ids["field"]]["reason"] == "`shape.colour`: no such field"
    assert shown[ids["argument"]]["kwargs"] == ["mark", "size"]
    workers.start("newer", "--concurrency=1", app=NEWER)
    # Beside the older one, which may take each of them once more.
    wait_until(lambda: all(workers.count(f"{mark} done") for mark in NEWS), seconds=90)
    wait_until(lambda: not count_waiting(workers.redis))
    assert {mark: workers.count(f"{mark} done") for mark in NEWS} == dict.fromkeys(NEWS, 1)
    assert list_dead_letters(workers.redis) == []


def test_a_sender_who_wants_the_answer_is_refused_and_the_message_is_listed(workers: Workers, rt: Runtime) -> None:
    workers.start("older", "--concurrency=1", app=OLDER)
    bad = workers.send("maintenance.grown", kwargs={"mark": "bad", "shape": {"corners": "many"}, "size": 1})
    with pytest.raises(Exception, match=r"`shape\.corners`: must be a whole number") as refused:
        answer(workers, bad).get(timeout=10)
    assert type(refused.value).__name__ == "ArgumentsError"
    assert (list_waiting(workers.redis), list_dead_letters(workers.redis)) == ([], [])
    ids = send_news(workers)
    for mark in ("argument", "field"):  # at once: it may be a typing error
        with pytest.raises(Exception, match=r"no such (argument|field)") as refused:
            answer(workers, ids[mark]).get(timeout=10)
        assert type(refused.value).__name__ == "ArgumentsError"
    with pytest.raises(NotRegistered):
        answer(workers, ids["task"]).get(timeout=ANSWER_AFTER.total_seconds() * 3)
    wait_until(lambda: not count_waiting(workers.redis))
    shown = listed()
    assert {task_id: each["waits"] for task_id, each in shown.items()} == dict.fromkeys(ids.values(), False)
    # An operator sends them again once there is a newer worker; none is taken up behind the sender's back.
    workers.start("newer", "--concurrency=1", app=NEWER)
    assert [workers.count(f"{mark} done") for mark in NEWS] == [0, 0, 0]
    assert run("drop", ids["task"]) == 0
    assert set(listed()) == {ids["argument"], ids["field"]}


def test_an_operator_sends_or_drops_what_waits(workers: Workers, rt: Runtime) -> None:
    workers.start("older", "--concurrency=1", app=OLDER)
    ids = send_news(workers, ignore_result=True, headers={"request_id": "the request"})
    late = datetime.now(UTC) + timedelta(seconds=1)
    workers.send("maintenance.added", kwargs={"mark": "late"}, task_id="late", expires=late, ignore_result=True)
    wait_until(lambda: "message.expired" in workers.log("older"))
    wait_until(lambda: set(listed()) == set(ids.values()))
    workers.stack.close()
    assert run("drop", ids["field"]) == 0
    assert run("replay", ids["task"]) == 0
    assert run("replay", "nothing") == 2
    (message,) = rt.redis.lrange("usage:maintenance", 0, -1)
    headers = json.loads(message)["headers"]
    kept = ("task", "id", "ignore_result", "request_id")
    assert [headers[each] for each in kept] == ["maintenance.added", ids["task"], True, "the request"]
    assert list(listed()) == [ids["argument"]]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ([[], {"mark": "odd"}, {}], {"expires": "soon"}),
        ([[], {"mark": "odd"}, {}], {"expires": 5, "usage_waits_since": "yesterday", "usage_refused_by": 5}),
        ("cut off", {}),
    ],
)
def test_an_odd_message_holds_up_no_other(
    workers: Workers, rt: Runtime, body: object, headers: dict[str, object]
) -> None:
    odd = {"task": "maintenance.added", "id": "odd", "ignore_result": True} | headers
    with workers.sender.producer_or_acquire() as producer:
        text = json.dumps(body).removesuffix('"')
        queue = {"exchange": "", "routing_key": "maintenance"}
        producer.publish(text, headers=odd, content_type="application/json", content_encoding="utf-8", **queue)
    older = workers.start("older", "--concurrency=1", app=OLDER)
    workers.send("maintenance.added", kwargs={"mark": "next"}, task_id="next", ignore_result=True)
    wait_until(lambda: "next" in {each.task_id for each in list_waiting(workers.redis)})
    assert older.poll() is None
    workers.start("newer", "--concurrency=1", app=NEWER)
    wait_until(lambda: workers.count("next done"))
    wait_until(lambda: not count_waiting(workers.redis) and not rt.redis.hlen("usage:unacked"))


def answer(workers: Workers, task_id: str) -> Any:
    return AsyncResult(task_id, app=workers.sender)
