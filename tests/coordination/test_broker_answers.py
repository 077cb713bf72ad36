"""An error answer of Redis: whose connection it costs, what is kept, and what a failover behind one address leaves."""

import inspect
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.backends.redis import RedisBackend
from celery.worker.consumer import Consumer
from celery.worker.heartbeat import Heart
from celery.worker.state import maybe_shutdown
from kombu.exceptions import OperationalError
from kombu.transport.redis import QoS, Transport
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

from tests.chaos.proxy import Wire
from tests.client.test_client import make_sender
from tests.factories import session_row
from tests.server_directory import server_directory
from usage_tasks.client import UnconfirmedError, record, record_unconfirmed
from usage_tasks.coordination.broker_probe import await_broker, find_refusal, move_wrong_types_aside, put_back
from usage_tasks.coordination.celery_internals.answers import UNTAKEN, count_answers_as_lost
from usage_tasks.coordination.redis_retry import make_discarding_retry
from usage_tasks.embedded.redis import running_redis
from usage_tasks.runtime import Runtime


class Failover:
    """Two servers behind one address: the old one becomes a replica, and keeps the connections that it has."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = redis.Redis.from_url(old), redis.Redis.from_url(new)
        self._new_port: int = self.new.connection_pool.connection_kwargs["port"]
        self.wire = Wire(self.old.connection_pool.connection_kwargs["port"])
        self.url = f"redis://127.0.0.1:{self.wire.port}/0"

    def happen(self) -> None:
        """Let new connections lead to the new primary."""
        self.wire.retarget(self._new_port)
        self.old.replicaof("127.0.0.1", str(self._new_port))


@pytest.fixture
def failover() -> Iterator[Failover]:
    """Two servers behind one address, before their failover."""
    with server_directory() as directory, ExitStack() as stack:
        old, new = (stack.enter_context(running_redis(Path(directory) / name, {})) for name in ("old", "new"))
        made = Failover(old, new)
        yield made
        made.wire.close()


@pytest.fixture
def corrected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kombu as our workers have it; taken back after the test."""
    monkeypatch.setattr(Transport, "connection_errors", Transport.connection_errors)
    assert count_answers_as_lost()
    yield
    UNTAKEN.clear()


def test_a_client_of_ours_leaves_a_server_that_is_the_primary_no_more(failover: Failover) -> None:
    client = redis.Redis.from_url(failover.url, retry=make_discarding_retry())
    client.set("before", 1)
    failover.happen()
    with pytest.raises(ReadOnlyError):
        client.set("after", 1)
    with client.pipeline() as pipe:
        pipe.set("after", 1)
        assert pipe.execute() == [True]
    assert failover.new.get("after") == b"1"


def test_a_script_that_is_not_loaded_yet_costs_no_connection(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url, retry=make_discarding_retry())
    with client:
        before = client.client_id()
        with pytest.raises(NoScriptError):
            client.evalsha("0" * 40, 0)
        assert client.client_id() == before
        assert client.register_script("return 1")() == 1


def test_a_result_and_a_message_go_to_the_new_primary(failover: Failover, corrected: None) -> None:
    app = Celery("failing over", broker=failover.url, backend=failover.url, set_as_current=False)
    app.conf.update(
        result_backend_transport_options={"additional_connection_errors": ["redis.exceptions.ResponseError"]},
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5},
    )
    backend: Any = app.backend
    app.send_task("before", queue="celery")
    backend.store_result("before", 1, "SUCCESS")
    failover.happen()
    app.send_task("after", queue="celery")
    backend.store_result("after", 1, "SUCCESS")
    assert failover.new.llen("celery") == 1
    assert failover.new.exists("celery-task-meta-after")
    app.close()


def test_an_error_that_lasts_is_raised_as_the_broker_being_away(rt: Runtime, redis_url: str, corrected: None) -> None:
    app = Celery("refused", broker=redis_url, set_as_current=False)
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
    rt.redis.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(OperationalError, match="NOREPLICAS"):
            app.send_task("refused", queue="celery")
    finally:
        rt.redis.config_set("min-replicas-to-write", 0)
    app.close()


def test_a_sender_hears_that_the_broker_is_away_or_sends_again(rt: Runtime, redis_url: str) -> None:
    sender = make_sender(redis_url)
    rt.redis.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(OperationalError, match="NOREPLICAS"):
            record_unconfirmed(sender, [session_row()], actor="service:tests")
        with pytest.raises(UnconfirmedError):
            record(sender, [session_row()], actor="service:tests", confirm_seconds=0.1, attempts=2)
    finally:
        rt.redis.config_set("min-replicas-to-write", 0)
    sender.close()


def test_kombu_and_celery_are_corrected_once_and_only_where_they_are_known(corrected: None) -> None:
    def read() -> tuple[object, ...]:
        return Transport.connection_errors, vars(RedisBackend)["on_connection_error"], vars(QoS)["append"]

    corrected_once = read()
    assert RedisError in Transport.connection_errors
    assert count_answers_as_lost()
    assert not count_answers_as_lost("5.8.0")
    assert read() == corrected_once


def test_a_message_that_cannot_be_noted_as_taken_is_kept_and_put_back_first(
    rt: Runtime, redis_url: str, corrected: None
) -> None:
    app = Celery("of this test", broker=redis_url, set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": "usage:", "priority_steps": [0]}
    for _ in range(2):
        app.send_task("first", queue="usage")
    oldest = rt.redis.lindex("usage:usage", -1)
    rt.redis.set("usage:unacked", "somebody's")
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        with pytest.raises(RedisError):
            channel.basic_get("usage", no_ack=False)
    assert rt.redis.llen("usage:usage") == 1
    move_wrong_types_aside(rt.redis, ["usage"])
    put_back(rt.redis, UNTAKEN)
    assert not UNTAKEN
    assert rt.redis.llen("usage:usage") == 2
    assert rt.redis.lindex("usage:usage", -1) == oldest
    app.close()


def test_keys_that_are_as_they_must_be_stay_where_they_are(rt: Runtime) -> None:
    rt.redis.rpush("usage:usage", "a message")
    rt.redis.hset("usage:unacked", "tag", "a message")
    move_wrong_types_aside(rt.redis, ["usage"])
    assert rt.redis.keys("usage:wrong_type:*") == []


def test_a_broker_is_waited_for_until_it_takes_what_is_written(rt: Runtime) -> None:
    rt.redis.config_set("min-replicas-to-write", 1)
    paused, begun = threading.Event(), list[str]()

    def pause(_: float) -> None:
        if paused.is_set():
            rt.redis.config_set("min-replicas-to-write", 0)
        paused.set()

    await_broker(rt.redis, pause=pause, waits=begun.append)
    assert begun == ["ResponseError"]
    assert find_refusal(rt.redis) is None


def test_what_is_corrected_of_celery_and_kombu_is_called_like_this() -> None:
    corrected: list[tuple[Any, list[str]]] = [
        (vars(RedisBackend)["on_connection_error"], ["self", "max_retries", "exc", "intervals", "retries"]),
        (vars(QoS)["append"], ["self", "message", "delivery_tag"]),
        (vars(Heart)["_send"], ["self", "event", "retry"]),
        (vars(Consumer)["connect"], ["self"]),
        (maybe_shutdown, []),
    ]
    for method, parameters in corrected:
        assert list(inspect.signature(inspect.unwrap(method)).parameters) == parameters
