"""`python -m tests.warm.server SUPERVISOR_PID`: has imported what a worker imports, and forks a process for each order.

Standard input is a socket. An order is a line of JSON, sent with the descriptors for output and errors; the answer is
the number of the new process. Its parent is the supervisor: the process between the two ends at once, and the
supervisor takes orphans at that moment.
"""

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import setproctitle

MODULES: Final = (
    "alembic.command",
    "celery.__main__",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.app.trace",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.events.state",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer.agent",
    "celery.worker.strategy",
    "celery.worker.worker",
    "kombu.transport.redis",
    "stripe",
    "usage_tasks.cli",
    "usage_tasks.commands.operations.verify",
    "usage_tasks.runtime",
    "usage_tasks.storage.migrate",
)
PACKAGES: Final = (
    "usage_tasks.coordination",
    "usage_tasks.domain",
    "usage_tasks.services",
    "usage_tasks.settings",
    "usage_tasks.storage",
    "usage_tasks.stripe_gateway",
    "usage_tasks.telemetry",
    "usage_tasks.wire",
    "usage_tasks.worker",
)
LEFT_OUT: Final = ("usage_tasks.storage.migrations.",)
NOT_YET: Final = ("usage_tasks.celery", "usage_tasks.celery_files.celeryconfig", "usage_tasks.tasks.task")
"""Modules that read the environment when they are imported: each forked process imports its own."""

PR_SET_PDEATHSIG: Final = 1
ORDER_BYTES_MAX: Final = 1 << 20
REPARENTED_SECONDS_MAX: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The command, without Python and `-m`, and its surroundings."""

    command: list[str]
    environment: dict[str, str]
    directory: str


def import_all() -> None:
    """Import what a worker imports, and neither settings nor the application."""
    for package in PACKAGES:
        for each in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not each.name.startswith(LEFT_OUT):
                importlib.import_module(each.name)
    for name in MODULES:
        importlib.import_module(name)
    setproctitle.getproctitle()  # finds the place of the command line, while the environment is as it was at the start
    early = [name for name in NOT_YET if name in sys.modules]
    assert not early, f"{early}: imported before there is an environment"
    assert threading.active_count() == 1


def fork(order: Order, outputs: list[int], channel: socket.socket, supervisor: int) -> int:
    """Fork a process and return its number. In that process, raise what its command ends with."""
    reader, writer = os.pipe()
    if (between := os.fork()) == 0:
        if (process := os.fork()) == 0:
            os.close(reader)
            os.close(writer)
            channel.close()
            _become(order, outputs, supervisor)
        os.write(writer, b"%d" % process)
        os._exit(0)
    os.waitpid(between, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        return int(told.read())


def _become(order: Order, outputs: list[int], supervisor: int) -> None:
    _belong_to(supervisor)
    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((null, *outputs)):
        os.dup2(source, target)
    os.closerange(3, max(null, *outputs) + 1)
    os.chdir(order.directory)
    path = filter(None, order.environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [order.directory, *dict.fromkeys([*path, *sys.path[1:]])]
    os.environ.clear()
    os.environ.update(order.environment)
    time.tzset()
    module, *arguments = order.command
    sys.argv = [module, *arguments]
    setproctitle.setproctitle(" ".join([sys.executable, "-m", *order.command]))
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


def _belong_to(supervisor: int) -> None:
    """Wait until the supervisor is the parent, and end with it, as usage_tasks/embedded/launch.py does it."""
    give_up_at = time.monotonic() + REPARENTED_SECONDS_MAX
    while os.getppid() != supervisor:
        if time.monotonic() > give_up_at:
            os._exit(1)
        time.sleep(0.001)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)


def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next order and the descriptors of output and errors, None once nobody orders any more."""
    received, descriptors, _, _ = socket.recv_fds(channel, ORDER_BYTES_MAX, 2)
    while received and not received.endswith(b"\n"):
        received += channel.recv(ORDER_BYTES_MAX)
    return (json.loads(received), descriptors) if received else None


def main(supervisor: int) -> None:
    """Fork until standard input ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import_all()
    gc.collect()
    gc.freeze()
    channel = socket.socket(fileno=os.dup(0))
    while received := _receive(channel):
        order, outputs = received
        process = fork(Order(**order), outputs, channel, supervisor)
        for each in outputs:
            os.close(each)
        channel.sendall(b"%d\n" % process)


if __name__ == "__main__":
    main(int(sys.argv[1]))
