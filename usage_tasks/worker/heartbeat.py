"""Heartbeats of a worker and a beat: files that `usage-tasks health` reads (docs/adr/0032)."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import structlog
from celery import bootsteps, signals
from psycopg.conninfo import conninfo_to_dict

from usage_tasks.coordination.celery_internals.consumer import find_unworked
from usage_tasks.coordination.celery_internals.occupancy import find_limit, is_alone
from usage_tasks.coordination.celery_internals.routing import list_consumed_queues
from usage_tasks.heartbeats import (
    BEAT_SECONDS,
    DIRECTORY_VARIABLE,
    Address,
    remove_heartbeat,
    replace_dead,
    write_heartbeat,
)
from usage_tasks.runtime import runtime
from usage_tasks.worker.progress import Progress

log = structlog.get_logger(__name__)

_REPLACE_SECONDS: Final = 120
_REDIS_PORT: Final = 6379
_POSTGRES_PORT: Final = 5432
_SOCKET: Final = ".s.PGSQL."

CHECK_SECONDS: Final = 2
"""A worker whose messages are all held does nothing until it connects again: two checks are soon over."""


class HeartbeatFile:
    """The heartbeat of this process, in USAGE_HEARTBEAT_DIR; nothing is written if it is not set.

    A directory that cannot be written is a line of the log: the process works all the same.
    """

    def __init__(self, kind: str, name: str, queues: Sequence[str] = ()) -> None:
        named = os.environ.get(DIRECTORY_VARIABLE)
        self._directory = Path(named) if named else None
        self._kind, self._name, self._queues = kind, name, tuple(queues)
        self._replaces_until = time.monotonic() + _REPLACE_SECONDS
        self._failed = False

    def write(self, app: Any, **facts: Any) -> None:
        """Write it; in the first minutes, remove the file of the process that this one was started for."""
        if self._directory is None:
            return
        try:
            write_heartbeat(self._directory, self._kind, self._name, broker=_broker(app), queues=self._queues, **facts)
            if time.monotonic() < self._replaces_until and replace_dead(
                self._directory, self._kind, self._name, self._queues
            ):
                self._replaces_until = 0
        except OSError as error:
            if not self._failed:
                log.warning("heartbeat.not_written", reason=str(error))
            self._failed = True
        else:
            self._failed = False

    def remove(self) -> None:
        """Remove it: this process ends in order."""
        if self._directory is None:
            return
        try:
            remove_heartbeat(self._directory, self._kind, self._name)
        except OSError as error:
            log.warning("heartbeat.not_removed", reason=str(error))


class WorkerHeartbeat(bootsteps.StartStopStep):
    """Beats from the timer of the loop that takes messages: while the broker is away it falls silent."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: object) -> None:
        queues = sorted(list_consumed_queues(consumer.app))
        self._entries: list[Any] = []
        self._unworked_before: frozenset[str] = frozenset()
        self._file = HeartbeatFile("worker", consumer.hostname, queues)
        self._progress = Progress(queues)
        self._consumer: Any = None

    def check_leak(self, consumer: Any) -> None:
        """Raise ConnectionResetError, so that the worker connects again, if a message stays held without a request.

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
        self._consumer = consumer
        if is_alone(consumer):
            signals.task_prerun.connect(self._beat_before_task)

        def beat() -> None:
            self._file.write(consumer.app, database=_databases(), troubles=self._progress.look(consumer))

        beat()
        self._entries = [
            consumer.timer.call_repeatedly(BEAT_SECONDS, beat),
            consumer.timer.call_repeatedly(CHECK_SECONDS, self.check_leak, (consumer,)),
        ]

    def _beat_before_task(self, task: Any = None, **_: object) -> None:
        """Note until when the loop may be silent: it runs the task itself."""
        busy_until = time.monotonic() + find_limit(self._consumer.app, task, task.request.timelimit)
        self._file.write(self._consumer.app, database=_databases(), busy_until=busy_until)

    def stop(self, consumer: Any) -> None:  # noqa: ARG002 - as Celery calls it
        """End, each time that the worker has lost its connection or must stop."""
        for entry in self._entries:
            entry.cancel()
        self._entries = []

    def shutdown(self, consumer: Any) -> None:
        """End for good."""
        self.stop(consumer)
        self._file.remove()


def add_heartbeat(sender: Any = None, **_: object) -> None:
    """Add the heartbeat to a worker; a receiver of the signal `worker_init`."""
    if sender is not None:
        sender.app.steps["consumer"].add(WorkerHeartbeat)


def _broker(app: Any) -> Address:
    broker = app.connection_for_read()
    return Address(broker.hostname or "127.0.0.1", broker.port or _REDIS_PORT)


def _databases() -> list[Address]:
    """Return where the database listens, one address a host; empty if its URL leaves that to libpq."""
    options = conninfo_to_dict(runtime().settings.database_url)
    hosts = str(options.get("hostaddr") or options.get("host") or os.environ.get("PGHOST") or "")
    ports = str(options.get("port") or os.environ.get("PGPORT") or _POSTGRES_PORT).split(",")
    if not hosts:
        return []
    placed = hosts.split(",")
    if len(ports) == 1:
        ports *= len(placed)
    return [_place(host, int(port or _POSTGRES_PORT)) for host, port in zip(placed, ports, strict=True)]


def _place(host: str, port: int) -> Address:
    """Return the address of a host; libpq takes a directory for that of a socket."""
    return Address(f"{host}/{_SOCKET}{port}", 0) if host.startswith("/") else Address(host, port)
