"""If the broker is away, Stripe gets an error soon and tries again."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

import usage_tasks.celery  # noqa: F401 - what it adds to each message is part of what is compared
from tests.webhook_app.conftest import Receiver, drain, make_event, running_receiver, wait_until
from tests.webhook_app.receiver import configuration, make_celery
from usage_tasks.embedded.processes import free_port, is_alive
from usage_tasks.embedded.redis import running_redis
from usage_tasks.stripe_gateway.webhooks import VerifiedEvent
from usage_tasks.telemetry.headers import PUBLISHED_AT, REQUEST_ID
from usage_tasks.webhook_app.publishing import BrokerAwayError, Publisher
from usage_tasks.webhook_app.receiver import Secrets
from usage_tasks.webhook_app.serving import WORKER_KILL_SECONDS

ANSWER_SECONDS_MAX = 7
STOP_SECONDS_MAX = 5
ENDS_WITHIN = 30
"""Seconds, however busy the machine is: a process that waits for the request would never end."""


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The URL of a broker that accepts connections and never sends a byte."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@pytest.mark.holds("receiver.broker-away")
def test_a_broker_that_refuses_is_a_503_at_once(tmp_path: Path) -> None:
    with running_receiver(tmp_path, f"redis://127.0.0.1:{free_port()}/0") as receiver:
        started = time.monotonic()
        assert receiver.post(make_event(id="evt_away")).status == 503
        assert time.monotonic() - started < 3
        assert receiver.request("GET", "/healthz").status == 200
        log = receiver.log.read_text()
        assert "webhook.broker_away" in log
        assert "Traceback" not in log


@pytest.mark.holds("receiver.broker-away")
def test_a_broker_that_is_a_black_hole_is_a_503_within_bounds(tmp_path: Path, black_hole: str) -> None:
    with running_receiver(tmp_path, black_hole) as receiver, ThreadPoolExecutor(128) as senders:
        started = time.monotonic()
        # More at once than there are threads: the waiting ones must not wait a second time each.
        answers = senders.map(receiver.post, [make_event()] * 128)
        assert {answer.status for answer in answers} == {503}
        assert time.monotonic() - started < ANSWER_SECONDS_MAX


@pytest.mark.holds("receiver.broker-away")
def test_a_broker_that_answers_with_an_error_is_a_503_and_is_used_again_when_it_is_well(tmp_path: Path) -> None:
    with running_redis(tmp_path / "broker", os.environ) as url, running_receiver(tmp_path, url) as receiver:
        client = Redis.from_url(url)
        assert receiver.post(make_event()).status == 200
        client.replicaof("127.0.0.1", str(free_port()))
        assert receiver.post(make_event()).status == 503
        client.replicaof("NO", "ONE")
        assert wait_until(lambda: receiver.post(make_event()).status == 200, seconds_max=5)
        assert "Traceback" not in receiver.log.read_text()


def test_a_broker_that_comes_back_is_used_again(tmp_path: Path) -> None:
    port = free_port()
    with running_receiver(tmp_path, f"redis://127.0.0.1:{port}/0") as receiver:
        for _ in range(3):
            with running_redis(tmp_path / "broker", os.environ, ports=lambda: port) as url:
                assert wait_until(lambda: receiver.post(make_event()).status == 200, seconds_max=5)
                assert drain(url)
            assert receiver.post(make_event()).status == 503


@pytest.mark.holds("receiver.broker-away")
def test_a_broker_that_is_full_is_a_503(tmp_path: Path) -> None:
    with running_redis(tmp_path / "broker", os.environ) as url:
        with Redis.from_url(url) as redis:
            redis.config_set("maxmemory", "1mb")
        event = VerifiedEvent(event_id="evt_1", event_type="x", body="{}" * 1_000_000)
        with pytest.raises(BrokerAwayError):
            Publisher(configuration(url).broker).submit(event).result(10)


def test_a_batch_whose_senders_have_all_given_up_ends_no_thread(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    publisher = Publisher(configuration(broker).broker)
    first, given_up, last = (VerifiedEvent(event_id=f"evt_{n}", event_type="x", body="{}") for n in range(3))
    publisher.submit(first).result(10)
    with Redis.from_url(broker) as redis:
        redis.client_pause(500)
        slow = publisher.submit(first)
        time.sleep(0.1)  # its batch is on its way, and without the next one
        assert publisher.submit(given_up).cancel()
    slow.result(10)
    publisher.submit(last).result(10)
    assert failures == []
    assert [message.headers["id"] for message in drain(broker)][-3:] == ["evt_0", "evt_0", "evt_2"]


def test_the_message_is_the_one_that_celery_would_send(broker: str) -> None:
    drain(broker)
    celery_app = make_celery(broker)
    event = VerifiedEvent(event_id="evt_same", event_type="x", body='{"city": "Zürich"}')
    arguments = {"event_id": event.event_id, "payload": event.body}
    shown: Any = {"argsrepr": "()", "kwargsrepr": "{'event_id': 'evt_same'}"}
    celery_app.send_task("stripe.receive_event", kwargs=arguments, task_id="evt_same", ignore_result=True, **shown)
    Publisher(configuration(broker).broker).submit(event).result(10)
    theirs, ours = drain(broker)
    own = {"origin": "", PUBLISHED_AT: 0, REQUEST_ID: ""}
    assert ours.headers | own == theirs.headers | own
    assert ours.headers.keys() >= own.keys()
    assert [list(ours.payload[0]), *ours.payload[1:]] == [list(theirs.payload[0]), *theirs.payload[1:]]
    same = ("correlation_id", "delivery_mode", "body_encoding", "priority")
    assert [ours.properties[name] for name in same] == [theirs.properties[name] for name in same]
    assert (ours.content_type, ours.content_encoding) == (theirs.content_type, theirs.content_encoding)
    where = ("exchange", "routing_key")
    assert [ours.delivery_info[name] for name in where] == [theirs.delivery_info[name] for name in where]


def test_every_process_ends_though_a_request_hangs(tmp_path: Path, black_hole: str) -> None:
    with running_receiver(tmp_path, black_hole) as receiver:
        request = threading.Thread(target=_post_until_the_end, args=(receiver,), daemon=True)
        request.start()
        time.sleep(0.5)
        family = [receiver.process.pid, *receiver.workers()]
        assert len(family) == 2
        assert WORKER_KILL_SECONDS < STOP_SECONDS_MAX
        receiver.process.send_signal(signal.SIGTERM)
        receiver.process.wait(ENDS_WITHIN)
        assert wait_until(lambda: not any(map(is_alive, family)), seconds_max=ENDS_WITHIN)


def test_an_idle_receiver_ends_at_once_and_without_an_error(tmp_path: Path, broker: str) -> None:
    with running_receiver(tmp_path, broker) as receiver:
        receiver.process.send_signal(signal.SIGTERM)
        assert receiver.process.wait(STOP_SECONDS_MAX) == 0


@pytest.mark.parametrize("secrets", [[], [""], ["whsec_1", ""]])
def test_a_receiver_without_a_secret_is_not_made(secrets: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one webhook secret"):
        Secrets(snapshot=secrets)


def _post_until_the_end(receiver: Receiver) -> None:
    with suppress(OSError, HTTPException):
        receiver.post(make_event())
