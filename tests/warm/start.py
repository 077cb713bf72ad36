"""Start a process of Python by a fork where that is the same as a fresh start, and freshly where it is not."""

import ctypes
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

from tests.warm.server import Order
from usage_tasks.embedded.processes import LINUX
from usage_tasks.embedded.processes import launch as launch_freshly

ROOT: Final = Path(__file__).parents[2]
READ_EARLIER: Final = (
    "C_",
    "CELERY_",
    "KOMBU_",
    "LANG",
    "LC_",
    "PROMETHEUS_",
    "PSYCOPG_",
    "PYTHON",
    "REMAP_",
    "STRIPE_LOG",
)
"""Prefixes of variables that Python or a library reads before the fork: with another value a process starts freshly."""

READ_LATER: Final = ("CELERY_CONFIG_MODULE", "PYTHONPATH")
ANSWER_BYTES_MAX: Final = 32
RUN_SECONDS_MAX: Final = 60
PR_SET_CHILD_SUBREAPER: Final = 36


class Forked(subprocess.Popen[bytes]):
    """A child of this process that another process has forked for it."""

    def __init__(self, command: Sequence[str], process: int) -> None:
        self._process = process
        super().__init__(command)

    def _execute_child(self, *_: object) -> None:
        self.pid = self._process
        self._child_created = True


class Server:
    """The process that forks, one for a test process; it ends with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.environment = {name: value for name, value in os.environ.items() if name not in READ_LATER}
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm.server", str(os.getpid())],
                stdin=theirs.fileno(),
                cwd=ROOT,
                env=self.environment,
                process_group=0,
            )

    def fork(self, order: Order, *outputs: IO[bytes]) -> int:
        """Fork a process that writes its output and its errors to these two files; return its number."""
        line = json.dumps(asdict(order)).encode() + b"\n"
        with self._lock:
            _take_orphans(take=True)
            try:
                sent = socket.send_fds(self._channel, [line], [each.fileno() for each in outputs])
                self._channel.sendall(line[sent:])
                return int(self._channel.recv(ANSWER_BYTES_MAX))
            finally:
                _take_orphans(take=False)


def early(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that were read before the fork."""
    return {
        name: value for name, value in environment.items() if name.startswith(READ_EARLIER) and name not in READ_LATER
    }


@functools.cache
def server() -> Server:
    """Return the server of this process, which starts with the first order."""
    return Server()


def launch(
    arguments: Sequence[str],
    *,
    output: IO[bytes],
    environment: Mapping[str, str] | None,
    inherited: Sequence[int],
) -> subprocess.Popen[bytes]:
    """Begin a process as `child_process` does it, but fork it where its command is `python -m module ...`."""
    _, orphan_signal, identity, guard, *command = arguments
    given = dict(os.environ if environment is None else environment)
    asked = (orphan_signal, identity, guard) == (str(int(signal.SIGKILL)), "same", "-") and not inherited
    if not asked or not can_fork(command, given):
        return launch_freshly(arguments, output=output, environment=environment, inherited=inherited)
    return _fork(command, given, output, output)


def can_fork(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return True if a fork for `python -m module ...` with this environment is as a fresh start of it."""
    return LINUX and command[:2] == [sys.executable, "-m"] and early(environment) == early(server().environment)


def _fork(command: Sequence[str], environment: Mapping[str, str], *outputs: IO[bytes]) -> Forked:
    order = Order(command=[*command[2:]], environment=dict(environment), directory=str(Path.cwd()))
    return Forked(command, server().fork(order, *outputs))


def run(
    command: Sequence[str], *, env: Mapping[str, str], timeout: float = RUN_SECONDS_MAX
) -> subprocess.CompletedProcess[str]:
    """Run `python -m module ...` to its end, as subprocess.run does it with texts captured."""
    if not can_fork(command, env):
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=timeout)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = _fork(command, env, output, errors)
        try:
            started.wait(timeout)
        except BaseException:
            started.kill()
            started.wait()
            raise
        for each in (output, errors):
            each.seek(0)
        return subprocess.CompletedProcess(command, started.returncode, output.read().decode(), errors.read().decode())


def _take_orphans(*, take: bool) -> None:
    """Have orphans of this process's descendants become its children, or not."""
    prctl: Any = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, int(take), 0, 0, 0)
