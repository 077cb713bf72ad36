"""The close of a connection whose Redis is gone, as a worker's consumer does it."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery.signals import worker_init
from kombu import Connection, Queue
from kombu.common import ignore_errors
from kombu.transport.redis import Channel

import usage_tasks.celery
from tests.server_directory import server_directory
from usage_tasks.coordination.celery_internals.channel import correct_channel
from usage_tasks.embedded.redis import running_redis


@pytest.fixture
def lost() -> Iterator[Connection]:
    """A connection that holds an unacknowledged message of a Redis that has just ended, given up once."""
    with server_directory() as directory:
        with running_redis(Path(directory), {}) as url:
            connection = Connection(url)
            for name, channel in (("tasks", connection.default_channel), ("control", connection.channel())):
                Queue(name, channel=channel).declare()
                consume: Any = channel.basic_consume  # type: ignore[attr-defined]  # of the virtual transports
                consume(name, no_ack=False, callback=print, consumer_tag=f"consumer of {name}")
            connection.Producer().publish({}, routing_key="tasks", serializer="json")
            connection.drain_events(timeout=5)
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.1)  # it waits for the next message when Redis ends
        connection.collect(socket_timeout=0.2)
        yield connection


@pytest.fixture
def as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kombu as released; the test's changes to it are undone."""
    released = vars(Channel)["_connparams"]
    monkeypatch.setattr(Channel, "_connparams", getattr(released, "__wrapped__", released))


def test_without_the_correction_the_second_close_raises_what_ends_a_worker(as_released: None, lost: Connection) -> None:
    with pytest.raises(AttributeError, match="hostname"):
        ignore_errors(lost, lost.close)


def test_with_the_correction_the_second_close_is_a_lost_connection(as_released: None, lost: Connection) -> None:
    assert correct_channel()
    ignore_errors(lost, lost.close)


def test_it_is_applied_once_and_to_the_faulty_series_only(as_released: None) -> None:
    released = vars(Channel)["_connparams"]
    assert not correct_channel("5.8.0")
    assert vars(Channel)["_connparams"] is released
    assert correct_channel()
    corrected = vars(Channel)["_connparams"]
    assert correct_channel()
    assert vars(Channel)["_connparams"] is corrected


def test_a_worker_of_ours_is_corrected_before_it_connects(as_released: None) -> None:
    released = vars(Channel)["_connparams"]
    assert usage_tasks.celery.app.main == "usage_tasks"  # it listens
    worker_init.send(sender=None)
    assert vars(Channel)["_connparams"] is not released
