"""Probes: true, and cheap."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.embedded.conftest import ROOT
from usage_tasks.embedded.processes import free_port
from usage_tasks.embedded.redis import running_redis
from usage_tasks.health import LIVE_SECONDS_MAX, READY_SECONDS_MAX, main, write_heartbeat

CPU_SECONDS_MAX = 0.3
DAY_SECONDS = 86_400


def only_file(directory: Path) -> Path:
    """Return the only heartbeat."""
    (file,) = directory.glob("worker.usage@here.*")
    return file


def rewrite(directory: Path, **values: object) -> Path:
    """Change the values of a heartbeat file; None removes a value."""
    file = only_file(directory)
    heartbeat = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: value for name, value in heartbeat.items() if value is not None}))
    return file


def aged(directory: Path, seconds: float, *, port: int = 1) -> dict[str, str]:
    write_heartbeat(directory, "worker", "usage@here", broker=("127.0.0.1", port))
    rewrite(directory, beat_at=time.monotonic() - seconds)
    return {"USAGE_HEARTBEAT_DIR": str(directory)}


def test_a_fresh_heartbeat_is_ready_and_an_old_one_is_not(tmp_path: Path) -> None:
    assert main(["worker"], aged(tmp_path, READY_SECONDS_MAX - 5)) == 0
    assert main(["worker"], aged(tmp_path, READY_SECONDS_MAX + 5)) == 1
    assert main(["worker", "--live"], aged(tmp_path, READY_SECONDS_MAX + 5)) == 0


def test_a_jump_of_the_machine_s_clock_is_no_silence_and_hides_none(tmp_path: Path) -> None:
    environment = aged(tmp_path, 0)
    file = only_file(tmp_path)
    for jump in (-DAY_SECONDS, DAY_SECONDS):  # what the file's time then looks like
        os.utime(file, (time.time() + jump, time.time() + jump))
        assert main(["worker"], environment) == 0
    environment = aged(tmp_path, READY_SECONDS_MAX + 5)
    os.utime(file, (time.time() + DAY_SECONDS, time.time() + DAY_SECONDS))
    assert main(["worker"], environment) == 1


def test_a_heartbeat_of_before_the_machine_started_is_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = aged(tmp_path, -DAY_SECONDS)
    assert main(["worker"], environment) == 1
    assert "before this machine started" in capsys.readouterr().out


def test_a_process_of_an_earlier_version_is_judged_by_its_file(tmp_path: Path) -> None:
    environment = aged(tmp_path, 0)
    file = rewrite(tmp_path, beat_at=None)
    assert main(["worker"], environment) == 0
    os.utime(file, (time.time() - READY_SECONDS_MAX - 5,) * 2)
    assert main(["worker"], environment) == 1


def test_silence_is_death_only_while_the_broker_can_be_reached(tmp_path: Path) -> None:
    with running_redis(tmp_path / "redis", {}) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        assert main(["worker", "--live"], aged(tmp_path, LIVE_SECONDS_MAX + 5, port=port)) == 1
    assert main(["worker", "--live"], aged(tmp_path, LIVE_SECONDS_MAX + 5, port=port)) == 0


def test_a_process_that_is_gone_is_neither_alive_nor_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "from usage_tasks.health import *; write_heartbeat(Path('.'), 'beat', 'x', broker=())"
    subprocess.run([sys.executable, "-c", told], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True)
    for arguments in (["beat"], ["beat", "--live"]):
        assert main(arguments, {"USAGE_HEARTBEAT_DIR": str(tmp_path)}) == 1
    assert "is gone" in capsys.readouterr().out


def test_what_was_never_there_is_not_healthy(tmp_path: Path) -> None:
    assert main(["beat"], {"USAGE_HEARTBEAT_DIR": str(tmp_path)}) == 1
    assert main(["beat"], {}) == 1
    assert main(["webhook"], {"USAGE_SERVER__PORT": str(free_port())}) == 1
    assert main(["nothing"], {}) == 2
    assert main([], {}) == 2


def test_a_probe_costs_little_and_imports_nothing_of_the_system(tmp_path: Path) -> None:
    environment = aged(tmp_path, 0) | {"PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", "-m", "usage_tasks", "health", "worker"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout == f"worker.usage@here (pid {os.getpid()}): ok\n"
    for heavy in ("celery", "kombu", "sqlalchemy", "pydantic", "redis", "typer"):
        assert f" {heavy}\n" not in done.stderr
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < CPU_SECONDS_MAX
