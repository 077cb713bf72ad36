"""A process that is forked for a test is as a freshly started one, and as bound to the test's process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.warm.start import READ_EARLIER, READ_LATER, ROOT, Forked, launch
from usage_tasks.embedded.processes import LINUX, Launcher, child_process
from usage_tasks.embedded.processes import launch as launch_freshly

SETTINGS = ("USAGE_", "STRIPE_", "DATABASE_URL", "REDIS_URL")
WATCH = """
import os
seen = set()
class Watched(type(os.environ)):
    def __getitem__(self, name):
        seen.add(name)
        return super().__getitem__(name)
    def __contains__(self, name):
        seen.add(name)
        return super().__contains__(name)
os.environ.__class__ = Watched
"""
pytestmark = pytest.mark.skipif(not LINUX, reason="elsewhere each process starts freshly")


def observe(directory: Path, launcher: Launcher) -> dict[str, Any]:
    log = directory / "log"
    log.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{directory}", "MARK": "x"}
    command = [sys.executable, "-m", "tests.warm.facts", "3", "four"]
    with child_process(command, name="facts", log=log, environment=environment, launcher=launcher) as process:
        assert process.wait(20) == 3, log.read_text()
    seen: dict[str, Any] = json.loads(log.read_text())
    return seen


def test_a_forked_process_sees_what_a_fresh_one_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    forked, fresh = observe(tmp_path, launch), observe(tmp_path, launch_freshly)
    assert {name: (forked[name], fresh[name]) for name in fresh if forked[name] != fresh[name]} == {}
    assert (fresh["parent"], fresh["orphan signal"], fresh["leads"]) == (os.getpid(), signal.SIGKILL, True)


def test_its_end_is_noticed_and_its_exit_code_is_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "this", "--", "x"]
    with child_process(command, name="poem", log=tmp_path / "log", launcher=launch) as process:
        assert isinstance(process, Forked)
        assert process.wait(20) == 0
    assert "Beautiful is better than ugly." in (tmp_path / "log").read_text()
    with child_process(
        [sys.executable, "-m", "no_such_module"], name="none", log=tmp_path / "none", launcher=launch
    ) as process:
        assert process.wait(20) == 1
    assert (tmp_path / "none").read_text().splitlines()[-1].endswith("No module named no_such_module")
    with child_process(
        [sys.executable, "-m", "http.server", "0"], name="killed", log=tmp_path / "killed", launcher=launch
    ) as process:
        process.kill()
        assert process.wait(20) == -signal.SIGKILL


@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "CELERY_CUSTOM_WORKER_POOL", "PYTHONWARNINGS"])
def test_what_is_read_before_the_fork_is_read_by_a_fresh_process(tmp_path: Path, name: str) -> None:
    command, environment = [sys.executable, "-m", "this"], {**os.environ, name: "default"}
    log = tmp_path / "log"
    with child_process(command, name="fresh", log=log, environment=environment, launcher=launch) as process:
        assert not isinstance(process, Forked)
        assert process.wait(20) == 0


def test_no_setting_of_an_installation_is_read_before_the_fork() -> None:
    code = f"{WATCH}\nfrom tests.warm.server import import_all\nimport_all()\nprint(*seen)"
    environment = {"PATH": os.environ["PATH"]}  # some libraries look through all that there is
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    seen = {*told.stdout.split()}
    assert "CELERY_CUSTOM_WORKER_POOL" in seen
    assert {name for name in seen if name.startswith(SETTINGS) and not name.startswith(READ_EARLIER)} == set()
    assert seen.isdisjoint(READ_LATER)
