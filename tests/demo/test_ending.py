"""However the demo ends, none of its processes goes on running."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server_directory import server_directory
from usage_tasks.demo.installation import POOLS
from usage_tasks.embedded.patience import Patience
from usage_tasks.embedded.processes import wait_for_end

pytestmark = pytest.mark.timeout(300)


def processes_of(directory: Path) -> list[str]:
    """The processes with the demo's data in environment, command line or log; Celery may rewrite the first two."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            told += os.fsencode((process / "fd/1").readlink())
        except OSError:
            continue
        if str(directory).encode() in told and int(process.name) != os.getpid():
            found.append(process.name)
    return found


def look_into(directory: Path) -> list[str]:
    """Ask a running demo, by the variables of its file alone, for its jobs and workers; return what is wrong."""
    command = f". {directory}/env && exec {sys.executable} -m usage_tasks"
    begun = {
        asked: subprocess.Popen(
            ["sh", "-c", f"{command} {asked}"],
            env={"PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for asked in ("settings", "jobs --json", "prices list", "health beat", "health worker")
    }
    said = {asked: process.communicate()[0] for asked, process in begun.items()}
    wrong = [
        f"{asked}: {said[asked]}"
        for asked, process in begun.items()
        if process.returncode > (1 if asked.startswith("jobs") else 0)  # before the replay all are late
    ]
    if missing := [queue for queue in POOLS if f"worker.{queue}@demo" not in said["health worker"]]:
        wrong.append(f"no worker for {missing}: {said['health worker']}")
    return wrong


@pytest.fixture
def data() -> Iterator[Path]:
    """Where the demo's servers keep their data."""
    with server_directory() as directory:
        yield directory / "data"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks processes up in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_demo_that_is_interrupted_leaves_no_process(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    with (tmp_path / "out").open("wb") as out:
        demo = subprocess.Popen(
            [sys.executable, "-m", "usage_tasks.cli", "demo", f"--data={data}"],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        patience = Patience(demo.pid, seconds_max=60)
        try:
            while b"everything is up" not in (tmp_path / "out").read_bytes():
                assert demo.poll() is None, (tmp_path / "out").read_text()
                assert not patience.is_over(), patience.describe()
                time.sleep(0.1)
            assert len(processes_of(data)) > 9
            if number == signal.SIGINT:
                assert look_into(data) == []
        except BaseException:
            demo.kill()
            raise
        demo.send_signal(number)
        # It ends its processes one after another, with some seconds for each: on a busy machine it needs them all.
        assert wait_for_end(demo, seconds_max=90) is not None
    deadline = time.monotonic() + 15
    while processes_of(data) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(data) == []
