"""Heartbeats of a worker and a beat: files that `usage-tasks health` reads."""

import os
from pathlib import Path
from typing import Any, Final

from celery import bootsteps

from usage_tasks.coordination.celery_internals.consumer import find_unworked
from usage_tasks.health import BEAT_SECONDS, DIRECTORY_VARIABLE, remove_heartbeat, write_heartbeat

CHECK_SECONDS: Final = 2
"""A worker whose messages are all held does nothing until it has connected anew: two checks are soon over."""


def beat_once(app: Any, kind: str, name: str) -> None:
    """Write a heartbeat where USAGE_HEARTBEAT_DIR says; nothing where it is not set."""
    if named := os.environ.get(DIRECTORY_VARIABLE):
        broker = app.connection_for_read()
        write_heartbeat(Path(named), kind, name, broker=(broker.hostname or "127.0.0.1", broker.port or 6379))


def stop_beating(kind: str, name: str) -> None:
    """Take the heartbeat away."""
    if named := os.environ.get(DIRECTORY_VARIABLE):
        remove_heartbeat(Path(named), kind, name)


class WorkerHeartbeat(bootsteps.StartStopStep):
    """Beats from the timer of the loop that takes messages: while the broker is away it falls silent."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: object) -> None:  # noqa: ARG002 - as Celery calls it
        self._entries: list[Any] = []
        self._unworked_before: frozenset[str] = frozenset()

    def check_leak(self, consumer: Any) -> None:
        """Raise ConnectionResetError, so that the worker connects anew, if a message stays held and not worked on.

        A message whose acknowledgement was lost in a network that hung counts against the prefetch limit for ever. A
        worker at its limit takes no other message: it would be alive, connected, and idle until killed. The same
        message must be found twice in a row: between two steps of its life a message has no request for an instant.
        """
        unworked = find_unworked(consumer)
        lost = unworked & self._unworked_before
        self._unworked_before = unworked
        if lost:
            raise ConnectionResetError(f"{len(lost)} messages are held and not worked on: acknowledgements were lost")

    def start(self, consumer: Any) -> None:
        """Begin, each time that the worker has connected."""

        self._unworked_before = frozenset()

        def beat() -> None:
            beat_once(consumer.app, "worker", consumer.hostname)

        beat()
        self._entries = [
            consumer.timer.call_repeatedly(BEAT_SECONDS, beat),
            consumer.timer.call_repeatedly(CHECK_SECONDS, self.check_leak, (consumer,)),
        ]

    def stop(self, consumer: Any) -> None:  # noqa: ARG002 - as Celery calls it
        """End, each time that the worker has lost its connection or is told to stop."""
        for entry in self._entries:
            entry.cancel()
        self._entries = []

    def shutdown(self, consumer: Any) -> None:
        """End for good."""
        self.stop(consumer)
        stop_beating("worker", consumer.hostname)
