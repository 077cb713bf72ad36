"""Real servers in directories of their own, and a supervisor to send signals to."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.server_directory import server_directory
from usage_tasks.embedded.processes import is_alive
from usage_tasks.embedded.servers import running_servers

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("supervisor.py")
CHOSEN_BY_USER = ("DATABASE_URL", "REDIS_URL", "PG_BINDIR", "REDIS_SERVER")
GONE_SECONDS_MAX = 10

Supervise = Callable[..., tuple[subprocess.Popen[str], dict[str, list[int]]]]


@pytest.fixture
def environ() -> dict[str, str]:
    """The environment without the servers and binaries that a developer may have chosen in it."""
    return {name: value for name, value in os.environ.items() if name not in CHOSEN_BY_USER}


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory that every user can reach, as a server that may not run as root needs."""
    with server_directory() as path:
        yield path


@pytest.fixture(scope="session")
def used_directory() -> Iterator[Path]:
    """A directory in which both servers have run before: to make their data takes longer than most tests."""
    with server_directory() as path:
        with running_servers(path, {}):
            pass
        yield path


@pytest.fixture
def supervise(environ: Mapping[str, str]) -> Iterator[Supervise]:
    """Start the supervisor script. Return it and its output: pids and ports."""
    with ExitStack() as stack:

        def start(directory: Path, *arguments: str, python: str = sys.executable, user: int | None = None) -> object:
            packages = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))])
            supervisor = subprocess.Popen(
                [python, str(SCRIPT), str(directory), *arguments],
                stdout=subprocess.PIPE,
                text=True,
                env={**environ, "PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1"},
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                # A foreground group of its own, for Ctrl-C.
                start_new_session=True,
            )
            stack.callback(_end, supervisor)
            assert supervisor.stdout is not None
            line = supervisor.stdout.readline()
            assert line, "the supervisor ended before everything ran; its standard error says why"
            return supervisor, json.loads(line)

        yield start  # type: ignore[misc]  # the fixture's type says more than an inner function can


def _end(supervisor: subprocess.Popen[str]) -> None:
    supervisor.kill()
    supervisor.wait()
    assert supervisor.stdout is not None
    supervisor.stdout.close()


def wait_until_gone(said: Mapping[str, list[int]]) -> None:
    """Wait until none of the processes lives and nobody listens on the ports; fail after a while."""
    give_up_at = time.monotonic() + GONE_SECONDS_MAX
    while left := [pid for pid in said["pids"] if is_running(pid)]:
        assert time.monotonic() < give_up_at, f"still running: {left}"
        time.sleep(0.02)
    for port in said.get("ports", []):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"somebody listens on {port}"


def is_running(pid: int) -> bool:
    """True if a process is alive. A zombie, which has ended and was not waited for, is not."""
    if not is_alive(pid):
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not state.startswith("Z")
