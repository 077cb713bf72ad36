"""A queue whose messages wait long and are worked on all the same is no finding."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.client.test_client import make_sender
from tests.commands.doctor.conftest import Installation
from tests.commands.doctor.messages import send_aged
from tests.commands.doctor.page import FAULTS, to_see_to
from tests.worker.workers import Workers, make_workers, wait_until
from usage_tasks.commands.operations.findings.finding import Verdict
from usage_tasks.coordination.celery_internals.queues import list_key

LONG = 3600


@pytest.fixture
def workers(installation: Installation, environment: dict[str, str], redis_url: str) -> Iterator[Workers]:
    made = make_workers(environment, redis_url, installation.directory)
    with made.stack:
        yield made
    made.redis.close()
    made.sender.close()


def test_a_backlog_of_a_worker_that_is_busy_is_none(installation: Installation, workers: Workers) -> None:
    workers.start("busy", "--concurrency=1")
    workers.send("maintenance.chaos_nap", kwargs={"mark": "nap", "seconds": 30})
    wait_until(lambda: workers.count("nap begun"))
    send_aged(installation.rt.settings.redis_url, "maintenance.verify", 3, seconds_ago=LONG)
    assert to_see_to(installation.examine()) == []


@contextmanager
def taking(installation: Installation, queue: str) -> Iterator[None]:
    """Take a message of a queue now and then, as a platform's consumer that is no Celery worker."""
    ended = threading.Event()

    def take() -> None:
        while not ended.wait(0.2):
            installation.rt.redis.rpop(list_key(installation.rt.redis, queue))

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_backlog_that_a_consumer_of_the_platform_works_off_is_none(installation: Installation) -> None:
    send_aged(installation.rt.settings.redis_url, "server.block_user", 100, seconds_ago=LONG)
    with taking(installation, "server"):
        assert to_see_to(installation.examine()) == []
    assert installation.rt.redis.llen(list_key(installation.rt.redis, "server"))


def test_a_backlog_behind_a_message_that_is_worked_on_by_a_worker_that_does_not_answer_is_none(
    installation: Installation,
) -> None:
    send_aged(installation.rt.settings.redis_url, "usage.reconcile", 2, seconds_ago=LONG)
    with make_sender(installation.rt.settings.redis_url) as app, app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        assert channel.basic_get("usage", no_ack=False)
        assert to_see_to(installation.examine()) == []
        (tag,) = installation.rt.redis.zrange("usage:unacked_index", 0, -1)
        long_ago: Any = {tag: 1}  # its worker is dead
        installation.rt.redis.zadd("usage:unacked_index", long_ago)
        (found,) = to_see_to(installation.examine())
    assert found.found.startswith("usage: 1 message and nobody takes them")


def test_a_worker_of_another_queue_does_not_hide_one_without_a_worker(
    installation: Installation, workers: Workers
) -> None:
    workers.start("other", "--concurrency=1")
    send_aged(installation.rt.settings.redis_url, "directory.update_users", seconds_ago=LONG)
    (found,) = to_see_to(installation.examine())
    assert FAULTS["queue without a worker"].is_in(found)


def test_a_message_that_was_just_sent_is_no_finding_and_one_without_a_time_is(installation: Installation) -> None:
    send_aged(installation.rt.settings.redis_url, "usage.reconcile", seconds_ago=5)
    assert to_see_to(installation.examine()) == []
    message: Any = json.loads(installation.rt.redis.lindex(list_key(installation.rt.redis, "usage"), 0) or b"")
    del message["headers"]["published_at"]
    installation.rt.redis.lset(list_key(installation.rt.redis, "usage"), 0, json.dumps(message))
    (found,) = to_see_to(installation.examine())
    assert (found.verdict, found.found) == (Verdict.LOOK, "usage: 1 message and nobody takes them")
