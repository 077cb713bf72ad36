"""Messages that cannot be read: each is parked or done once, and the worker that met it goes on (docs/adr/0030)."""

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from celery import Celery
from celery.exceptions import InvalidTaskError

from tests.worker.malformed_shapes import EXPIRED, GOOD, TRACED, make_envelope, make_item, make_shapes, mutate
from tests.worker.workers import Workers, wait_until
from usage_tasks.coordination.celery_internals.envelope import UnreadableError
from usage_tasks.coordination.celery_internals.malformed import guard_clock
from usage_tasks.coordination.unreadable_messages import UnreadableMessage, list_unreadable

QUEUE: Final = "usage:maintenance"
POOLS: Final = {
    "prefork": ("--concurrency=2",),
    "threads": ("--pool=threads", "--concurrency=2"),
    "solo": ("--pool=solo",),
}
MUTATIONS: Final = 600
RESIDENT_BYTES_MAX: Final = 450 << 20
"""A worker has about 120 MB, and 340 with a plain message of the largest size; a bomb of 300 MB took it to 899."""


def parked(workers: Workers) -> list[UnreadableMessage]:
    return list_unreadable(workers.redis)


def nothing_is_left(workers: Workers) -> bool:
    unacked: Any = workers.redis.hlen("usage:unacked"), workers.redis.zcard("usage:unacked_index")
    return not workers.redis.llen(QUEUE) and unacked == (0, 0)


def went_on(workers: Workers, worker: Any) -> bool:
    """True if the worker is the same process, with the same connection as when it began."""
    return worker.poll() is None and workers.log("worker").count(" ready.") == 1


def peak_resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) << 10


@pytest.mark.timeout(240)
@pytest.mark.holds("lesson.unreadable")
@pytest.mark.parametrize("pool", POOLS)
def test_every_shape_is_parked_or_done_once_and_the_worker_goes_on(workers: Workers, pool: str) -> None:
    shapes = make_shapes()
    worker = workers.start("worker", *POOLS[pool])
    workers.redis.lpush(QUEUE, *shapes.values())
    workers.redis.lpush(QUEUE, make_item("the last"))
    wait_until(lambda: workers.count("the last ended"), seconds=120)
    wait_until(lambda: nothing_is_left(workers))
    assert went_on(workers, worker)
    digests = {each.sha256 for each in parked(workers)}
    assert len(digests) == len(shapes) - len(GOOD | EXPIRED)
    assert {name for name, item in shapes.items() if sha256(item).hexdigest() not in digests} == GOOD | EXPIRED
    assert {name: workers.count(f"{name} ended") for name in shapes} == {name: int(name in GOOD) for name in shapes}
    assert peak_resident_bytes(worker.pid) < RESIDENT_BYTES_MAX


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_worker_survives_whatever_is_wrong_in_an_envelope(workers: Workers, seed: int) -> None:
    random = Random(seed)
    worker = workers.start("worker", "--concurrency=2")
    workers.redis.lpush(QUEUE, *[mutate(random, f"mutation {number}") for number in range(MUTATIONS)])
    workers.redis.lpush(QUEUE, make_item("the last"))
    wait_until(lambda: workers.count("the last ended"), seconds=90)
    wait_until(lambda: nothing_is_left(workers))
    assert went_on(workers, worker)
    assert "WorkerLostError" not in workers.log("worker")
    assert "Traceback" not in workers.log("worker")
    assert len(parked(workers)) > MUTATIONS // 4


def test_a_sender_who_waits_gets_the_refusal(workers: Workers) -> None:
    workers.start("worker", "--concurrency=1")
    wrong: list[dict[str, Any]] = [{"headers": {"timelimit": [-1, -1]}}, {"properties": {"priority": "high"}}]
    for each in wrong:
        task_id = str(uuid.uuid4())
        headers = {"id": task_id, "ignore_result": False, **each.get("headers", {})}
        workers.redis.lpush(QUEUE, make_item(headers=headers, properties=each.get("properties")))
        with pytest.raises(InvalidTaskError, match=r"timelimit: must be two|priority: must be a whole"):
            workers.sender.AsyncResult(task_id).get(timeout=20)
    assert [each.task for each in parked(workers)] == ["maintenance.chaos_nap"] * 2


def test_a_call_that_a_tracing_library_has_marked_is_done_and_tried_again_with_its_marks(workers: Workers) -> None:
    workers.start("worker", "--concurrency=1")
    task_id = workers.send("maintenance.chaos_busy", kwargs={"mark": "traced"}, headers=TRACED)
    assert workers.sender.AsyncResult(task_id).get(timeout=20) == "traced"
    assert (workers.count("traced"), parked(workers)) == (2, [])


def plant_unacknowledged(workers: Workers, entries: Mapping[str, Any]) -> None:
    """Note messages as taken long ago by a worker that is no more."""
    for tag, entry in entries.items():
        stored = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
        workers.redis.hset("usage:unacked", tag, stored)
        workers.redis.zadd("usage:unacked_index", {tag: 0})


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_malformed_entries_of_the_unacknowledged_are_parked_and_the_others_restored(
    workers: Workers, pool: str
) -> None:
    good, other = make_envelope("restored"), make_envelope()
    malformed = {
        "no JSON": b"this is no JSON",
        "bytes": bytes(range(256)),
        "deep": b"[" * 100_000,
        "null": None,
        "a number": 5,
        "two parts": [other, ""],
        "message null": [None, "", "maintenance"],
        "message a list": [[], "", "maintenance"],
        "headers null": [other | {"headers": None}, "", "maintenance"],
        "headers a list": [other | {"headers": []}, "", "maintenance"],
        "properties null": [other | {"properties": None}, "", "maintenance"],
        "delivery info a text": [other | {"properties": {"delivery_info": "x"}}, "", "maintenance"],
        "exchange an object": [other, {}, "maintenance"],
        "exchange to nowhere": [other, "nowhere", "nowhere"],
        "routing key null": [other, "", None],
        "routing key an object": [other, "", {}],
        "a key that is no queue": [other, "", "unacked_index"],
        "a key that is taken": [other, "", "parked"],
    }
    plant_unacknowledged(workers, malformed | {"good": [good, "", "maintenance"]})
    worker = workers.start("worker", *POOLS[pool])
    wait_until(lambda: workers.count("restored ended"))
    wait_until(lambda: nothing_is_left(workers))
    assert went_on(workers, worker)
    assert len(parked(workers)) == len(malformed)
    assert {each.queue for each in parked(workers)} == {None}


@pytest.mark.parametrize("pool", POOLS)
def test_malformed_remote_control_is_dropped_and_the_next_is_answered(workers: Workers, pool: str) -> None:
    worker = workers.start("worker", *POOLS[pool], "-E")
    command: dict[str, Any] = {"method": "ping", "arguments": {}, "destination": None, "pattern": None, "matcher": None}
    bodies: list[Any] = [command, None, 5, [], "words", command | {"method": {}}, command | {"reply_to": 5}]
    clocks: list[Any] = [1, None, "x", {}, 10**4000, 1e308]
    envelopes = [
        make_envelope(body=json.dumps(body), properties={"body_encoding": None}, headers={"clock": clock})
        for body in bodies
        for clock in clocks
    ]
    database = workers.redis.connection_pool.connection_kwargs["db"]
    channel = f"usage:/{database}.celery.pidbox"
    reached = workers.redis.publish(channel, b"no JSON")
    assert reached == 1, "the worker listens elsewhere"
    items = [b"null", b"[]", b"{}", b"5", b"[" * 100_000, bytes(range(256)), b'{"properties": null}', b'{"headers": 5}']
    for item in [*items, *make_shapes().values(), *[json.dumps(each).encode() for each in envelopes]]:
        if len(item) < 1 << 20:
            workers.redis.publish(channel, item)
    workers.redis.lpush(QUEUE, make_item("the last"))
    wait_until(lambda: workers.count("the last ended"))
    wait_until(lambda: workers.sender.control.ping(timeout=1) == [{"worker@test": {"ok": "pong"}}])
    assert went_on(workers, worker)
    assert parked(workers) == []


@pytest.mark.parametrize("pool", POOLS)
def test_a_command_of_remote_control_that_cannot_be_carried_out_ends_no_worker(workers: Workers, pool: str) -> None:
    worker = workers.start("worker", *POOLS[pool])
    typed: list[dict[str, Any]] = [{"queue": {}}, {"queue": "x", "exchange": "x", "exchange_type": "nonsense"}]
    for arguments in typed:
        workers.sender.control.broadcast("add_consumer", arguments)
        workers.sender.control.broadcast("cancel_consumer", {"queue": {}})
    workers.redis.lpush(QUEUE, make_item("the last"))
    wait_until(lambda: workers.count("the last ended"))
    wait_until(lambda: workers.sender.control.ping(timeout=1) == [{"worker@test": {"ok": "pong"}}])
    assert went_on(workers, worker)


def test_the_clock_of_a_worker_follows_no_event_beyond_the_bound(redis_url: str) -> None:
    app: Any = Celery("of a worker", broker=redis_url, set_as_current=False)
    guard_clock(app)
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection)
        for clock in (10**30, 1e308, -1, "x"):
            with pytest.raises(UnreadableError, match="clock: must be"):
                receiver.event_from_message({"type": "worker-online", "hostname": "other", "clock": clock})
        before = app.clock.value
        receiver.event_from_message({"type": "worker-online", "hostname": "other", "clock": before + 7})
    assert app.clock.value == before + 8
    app.close()


@pytest.mark.parametrize("pool", POOLS)
def test_what_cannot_be_parked_now_is_parked_later(workers: Workers, pool: str) -> None:
    worker = workers.start("worker", *POOLS[pool])
    workers.redis.set("usage:unreadable", "in the way")
    items = [b"null", make_item(body=""), make_item(headers={"timelimit": 5})]
    workers.redis.lpush(QUEUE, *items, make_item("meanwhile"))
    wait_until(lambda: workers.count("meanwhile ended"))
    wait_until(lambda: workers.log("worker").count("message.not_parked") >= len(items))
    assert went_on(workers, worker)
    workers.redis.delete("usage:unreadable")
    wait_until(lambda: len(parked(workers)) == len(items))
    wait_until(lambda: nothing_is_left(workers))
    assert went_on(workers, worker)


@pytest.mark.parametrize("wait", [timedelta(0), timedelta(seconds=1)])
def test_what_the_pool_does_not_take_is_parked(workers: Workers, wait: timedelta) -> None:
    workers.environment["CELERY_CUSTOM_WORKER_POOL"] = "tests.worker.refusing_pool:RefusingPool"
    worker = workers.start("worker", "--pool=custom")
    headers = {"eta": (datetime.now(UTC) + wait).isoformat()} if wait else {}
    workers.redis.lpush(QUEUE, make_item("refused", headers=headers), make_item("taken"))
    wait_until(lambda: workers.count("taken ended"))
    wait_until(lambda: parked(workers))
    wait_until(lambda: nothing_is_left(workers))
    assert went_on(workers, worker)
    assert [each.reason for each in parked(workers)] == ["TypeError: the pool chokes on it"]
    assert workers.count("refused begun") == 0


def test_each_queue_has_an_exchange_of_its_own(workers: Workers) -> None:
    workers.start("worker", "--pool=solo", queues="usage,stripe,maintenance")
    assert "exchange=stripe(direct) key=stripe" in workers.log("worker")
    bound = {
        name: workers.redis.smembers(f"usage:_kombu.binding.{name}") for name in ("usage", "stripe", "maintenance")
    }
    assert bound == {name: {f"{name}\x06\x16\x06\x16{name}".encode()} for name in bound}
