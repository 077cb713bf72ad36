"""The internals of Celery and kombu that we use exist, have the expected shape, and are used in one room only."""

import ast
import inspect
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from amqp.channel import Channel as AmqpChannel
from celery import Celery
from celery.app import trace
from celery.worker import strategy
from kombu import Connection, Exchange, Producer, Queue
from kombu.transport import redis as transport
from kombu.transport.redis import Channel
from redis import Redis

import usage_tasks
import usage_tasks.celery
from tests.coordination.look_into_worker import BESIDE, LOOKED, make_app, send_normal_states
from usage_tasks.coordination.broker_clock import BrokerClock
from usage_tasks.coordination.celery_internals import SERIES, is_known
from usage_tasks.coordination.celery_internals.consumer import find_unworked
from usage_tasks.coordination.celery_internals.message import publish_arguments
from usage_tasks.coordination.celery_internals.queues import (
    QueueState,
    list_queues_taken_from,
    read_queues,
)
from usage_tasks.coordination.celery_internals.request import SkewedRequest
from usage_tasks.coordination.celery_internals.routing import find_queue
from usage_tasks.coordination.celery_internals.visibility import judge_by
from usage_tasks.coordination.keyspace import DEFAULT_PREFIX
from usage_tasks.coordination.queue_heads import read_heads
from usage_tasks.telemetry.headers import PUBLISHED_AT, REQUEST_ID, stamp
from usage_tasks.telemetry.logs import configure_logging

PACKAGE: Final = Path(usage_tasks.__file__).parent
ROOM: Final = PACKAGE / "coordination" / "celery_internals"
LIBRARIES: Final = frozenset({"celery", "kombu", "billiard", "vine", "amqp"})
DOCUMENTED: Final = frozenset(
    {
        "celery",
        "celery.beat",
        "celery.exceptions",
        "celery.result",
        "celery.schedules",
        "celery.signals",
        "celery.states",
        "kombu",
        "kombu.exceptions",
        "billiard.exceptions",
    }
)
OTHERS: Final = frozenset({"_mapping", "_asdict", "_exit", "_epoch"})
"""Underscored names that are no library's internals: SQLAlchemy's and the standard library's documented ones, ours."""
INTERNAL: Final = frozenset(
    {"amqp", "qos", "task_consumer", "reserved_requests", "active_requests", "scheduled_requests", "task_buckets"}
    | {"consume_from", "on_unknown_task"}
)
"""Internals without an underscore."""


@pytest.mark.parametrize("library", SERIES)
def test_the_libraries_are_of_the_series_that_this_was_written_for(library: str) -> None:
    assert is_known(library), (
        f"{library} {version(library)} is not of the series {SERIES[library]}: go through "
        "usage_tasks/coordination/celery_internals, compare each internal with this release, then change SERIES"
    )


def test_another_series_is_not_known() -> None:
    releases = ("5.7.0", "5.7.12", "5.70.0", "5.8.0", "6.5.7")
    assert [each for each in releases if is_known("kombu", each)] == ["5.7.0", "5.7.12"]


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """An application with our prefix on a real broker."""
    made = Celery("of this test", broker=redis_url, set_as_current=False)
    made.conf.update(
        broker_transport_options={"global_keyprefix": DEFAULT_PREFIX, "priority_steps": [0]},
        task_routes={"stripe.*": {"queue": "stripe"}},
    )
    yield made
    made.close()


def test_the_message_is_celerys_byte_by_byte_but_for_who_sent_it_and_when(app: Celery, redis_url: str) -> None:
    arguments = {"event_id": "evt_1", "payload": '{"city": "Zürich", "list": [1, null]}'}
    app.send_task("stripe.receive_event", kwargs=arguments, task_id="evt_1", ignore_result=True)
    ours = publish_arguments(
        "stripe.receive_event",
        "evt_1",
        arguments,
        queue=Queue("stripe", Exchange("stripe"), routing_key="stripe"),
        shown=arguments,
    )
    stamp(ours["headers"])
    with app.connection_for_write() as connection:
        Producer(connection).publish(**ours)
    theirs, made = (_comparable(message) for message in reversed(_messages(redis_url, "stripe")))
    assert made == theirs


def _messages(redis_url: str, queue: str) -> list[bytes]:
    with Redis.from_url(redis_url) as redis:
        found: Any = redis.lrange(DEFAULT_PREFIX + queue, 0, -1)
    return list(found)


def _comparable(message: bytes) -> bytes:
    """Return the message without the values that differ by sender and by message."""
    envelope = json.loads(message)
    headers, properties = envelope["headers"], envelope["properties"]
    sender, _, host = headers["origin"].partition("@")
    assert sender
    assert host
    assert len(properties["delivery_tag"]) == 36
    for own in (PUBLISHED_AT, REQUEST_ID):
        assert headers.pop(own)
    # Celery's thread for results by RPC; nothing here asks for such results.
    headers["origin"] = properties["delivery_tag"] = properties["reply_to"] = ""
    return json.dumps(envelope, ensure_ascii=False).encode()


def test_the_queue_of_a_task_is_the_one_that_celery_sends_it_to(app: Celery, redis_url: str) -> None:
    queue = find_queue(app, "stripe.receive_event")
    assert isinstance(queue, Queue)
    assert (queue.name, queue.exchange.name, queue.routing_key) == ("stripe", "stripe", "stripe")
    app.send_task("stripe.receive_event")
    assert len(_messages(redis_url, queue.name)) == 1


def test_queues_are_lists_whose_right_end_is_the_oldest_and_what_is_taken_is_a_hash(
    app: Celery, redis_url: str
) -> None:
    first, second = (app.send_task("stripe.receive_event").id for _ in range(2))
    newest, oldest = map(json.loads, _messages(redis_url, "stripe"))
    assert (oldest["headers"]["id"], newest["headers"]["id"]) == (first, second)
    with Redis.from_url(redis_url) as redis:
        waiting = QueueState(queue="stripe", depth=2, oldest_published_at=oldest["headers"][PUBLISHED_AT])
        nothing = QueueState(queue="usage", depth=0, oldest_published_at=None)
        assert read_queues(redis, ["stripe", "usage"]) == ([waiting, nothing], 0)
        with app.connection_for_read() as connection:
            channel: Any = connection.default_channel
            message = channel.basic_get("stripe", no_ack=False)
            assert message.headers["id"] == first
            left = QueueState(queue="stripe", depth=1, oldest_published_at=newest["headers"][PUBLISHED_AT])
            assert read_queues(redis, ["stripe"]) == ([left], 1)
            assert list_queues_taken_from(redis, since=time.time() - 60) == {"stripe"}
            assert list_queues_taken_from(redis, since=time.time() + 60) == frozenset()
            assert list(read_heads(redis, ["stripe", "usage"])) == ["stripe"]
            message.ack()
            assert read_queues(redis, ["stripe"]) == ([left], 0)


def test_the_channel_asks_for_its_connections_parameters_by_this_method(redis_url: str) -> None:
    method = inspect.unwrap(vars(Channel)["_connparams"])
    assert list(inspect.signature(method).parameters) == ["self", "asynchronous"]
    with Connection(redis_url) as connection:
        parameters = method(connection.default_channel)
        assert parameters["host"] == connection.hostname
        channel: Any = connection.default_channel
        assert channel.connection.client is connection


def test_kombu_asks_for_the_time_of_a_message_by_this_name_and_at_these_places(redis_url: str) -> None:
    asking = re.compile(r"(?<![.\w])time\(\)")
    methods = (transport.QoS.append, transport.QoS.restore_visible)
    found = [len(asking.findall(inspect.getsource(each))) for each in methods]
    assert (found, len(asking.findall(inspect.getsource(transport)))) == ([2, 1], 3)
    assert "time" in vars(transport)


def test_what_a_worker_of_any_clock_has_taken_stands_there_by_the_broker_s(
    app: Celery, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "time", time.time)
    with Redis.from_url(redis_url) as redis:
        clock = BrokerClock(lambda: redis)
        # A host whose clock is 62 days ahead. It counts until the broker has answered.
        clock._ahead += 62 * 86400
        assert judge_by(clock)
        assert not judge_by(clock, "5.8.0")
        app.send_task("stripe.receive_event")
        with app.connection_for_read() as connection:
            channel: Any = connection.default_channel
            assert channel.basic_get("stripe", no_ack=False)
            ((_, taken_at),) = redis.zrange(f"{DEFAULT_PREFIX}unacked_index", 0, -1, withscores=True)
            assert abs(taken_at - redis.time()[0]) < 5
    lost = BrokerClock(lambda: Redis(port=1))
    assert abs(lost() - time.time()) < 5  # the host's, until the broker answers


@pytest.mark.holds("clocks.waits", "clocks.ticks")
def test_a_message_is_taken_up_by_no_time_of_its_sender_s(app: Celery) -> None:
    @app.task(name="stripe.of_this_test", shared=False)
    def task() -> None:
        """Do nothing."""

    ahead, now = timedelta(days=62), datetime.now(UTC)
    sent_at = {PUBLISHED_AT: (now + ahead).timestamp()}
    retry = taken_up(app, task, eta=now + ahead + timedelta(seconds=5), headers=sent_at)
    assert abs((retry.eta - now).total_seconds() - 5) < 3
    late = taken_up(app, task, eta=now - ahead, headers={PUBLISHED_AT: now.timestamp()})
    assert abs((late.eta - now).total_seconds()) < 3
    unknown = taken_up(app, task, eta=now + ahead, headers={PUBLISHED_AT: "soon"})
    assert unknown.eta == now + ahead
    assert taken_up(app, task, expires=now - ahead).revoked()
    tick = taken_up(app, task, expires=now - ahead, headers={"celery_beat_task": True})
    assert (tick.expires, tick.revoked(), tick.eta) == (None, False, None)


def taken_up(app: Celery, task: Any, **options: Any) -> Any:
    """Return a message as a worker takes it up."""
    headers = options.pop("headers", {})
    app.send_task(task.name, queue="stripe", headers=headers, **options)
    with app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        message = channel.basic_get("stripe", no_ack=True)
    # The stamp of this process's own sending, if it has loaded the application that stamps.
    message.headers.update(headers)
    return SkewedRequest(message, app=app, task=task, hostname="here")


@pytest.mark.timeout(120)
def test_a_worker_counts_what_it_holds_and_nobody_works_on(redis_url: str) -> None:
    app = make_app(redis_url)
    app.send_task("look", queue=BESIDE)
    waiting = send_normal_states(app)
    app.send_task("look", queue=LOOKED)
    looked = subprocess.run(
        [sys.executable, "-m", "tests.coordination.look_into_worker", redis_url],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert looked.stdout, looked.stderr
    assert json.loads(next(line for line in looked.stdout.splitlines() if line.startswith("{"))) == {
        "queues": [LOOKED],
        "held": waiting + 1,
        "at_work": 0,
        "one_leaked": 1,
        "checks": [
            "waits for the second time",
            "1 messages are held and not worked on: acknowledgements were lost",
        ],
        "acknowledged": 0,
    }


def test_a_channel_that_counts_by_itself_holds_nothing_unworked() -> None:
    channel = AmqpChannel.__new__(AmqpChannel)  # RabbitMQ's, never opened
    assert not hasattr(channel, "qos")
    assert find_unworked(SimpleNamespace(task_consumer=SimpleNamespace(channel=channel))) == frozenset()


def test_the_loggers_whose_lines_ours_replace_are_celerys() -> None:
    configure_logging("INFO")
    loggers = (strategy.logger, trace.logger)
    assert [logger.isEnabledFor(logging.INFO) for logger in loggers] == [False, False]


def test_no_module_outside_the_room_uses_an_internal() -> None:
    outside = [path for path in PACKAGE.rglob("*.py") if ROOM not in path.parents]
    assert len(outside) > 150
    found = {str(path.relative_to(PACKAGE)): list(internals_of(path.read_text())) for path in outside}
    assert {path: used for path, used in found.items() if used} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from kombu.transport.redis import Channel",
        "import celery.worker.state",
        "from celery.worker import state",
        "from celery import _state",
        "len(consumer.task_consumer.channel.qos._delivered)",
        "app.amqp.queues",
        "getattr(channel, '_connparams')",
        "vars(Channel)['_connparams']",
    ],
)
def test_the_search_finds_an_internal(line: str) -> None:
    assert list(internals_of(line))


def internals_of(source: str) -> Iterator[str]:
    """Each use of an internal in a module's text."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                yield from (each.name for each in node.names if _is_undocumented(each.name))
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in LIBRARIES:
                private = any(each.name.startswith("_") for each in node.names)
                if private or _is_undocumented(module):
                    yield ast.unparse(node)
            case ast.Attribute(attr=name) if name in INTERNAL or _is_others_private(node):
                yield ast.unparse(node)
            case ast.Call(func=ast.Name(id="getattr" | "setattr"), args=[_, ast.Constant(value=str(name)), *_]):
                if name.startswith("_") or name in INTERNAL:
                    yield ast.unparse(node)
            case ast.Subscript(value=ast.Call(func=ast.Name(id="vars")), slice=ast.Constant(value=str(name))):
                if name.startswith("_"):
                    yield ast.unparse(node)


def _is_undocumented(module: str) -> bool:
    return module.partition(".")[0] in LIBRARIES and module not in DOCUMENTED


def _is_others_private(node: ast.Attribute) -> bool:
    own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
    return node.attr.startswith("_") and not node.attr.startswith("__") and not own and node.attr not in OTHERS
