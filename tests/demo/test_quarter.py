"""The real quarter through real processes, compared with the same quarter billed by other code."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from tests.demo.independent import FILE, bill_everybody, read_runs
from tests.server_directory import server_directory

pytestmark = pytest.mark.timeout(280)
SESSIONS = 17_900
COMMAND = [sys.executable, "-m", "usage_tasks.cli", "demo"]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Two replays of one demo, one after the other on the same database; a worker is killed in the first."""

    first: dict[str, Any]
    second: dict[str, Any]
    printed: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The results of the demo, run as a newcomer does, but with ticks a week apart."""
    outcome = tmp_path_factory.mktemp("demo") / "outcome.json"
    environment = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    with server_directory() as data:
        done = subprocess.run(
            [*COMMAND, "--tick=168h", "--replays=2", "--kill-worker", f"--json={outcome}"],
            env=environment | {"TMPDIR": str(data)},
            capture_output=True,
            text=True,
            timeout=270,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = json.loads(outcome.read_text())
    return Demo(first=first, second=second, printed=done.stdout)


def test_every_account_is_billed_as_an_independent_computation_says_though_a_worker_was_killed(demo: Demo) -> None:
    assert "killed the usage worker" in demo.printed
    assert demo.first["accounts"] == bill_everybody()


def test_no_session_is_lost_and_the_two_that_stop_before_they_start_cost_nothing(demo: Demo) -> None:
    counts = demo.first["counts"]
    assert sum(map(len, read_runs().values())) == SESSIONS, FILE
    assert (counts["sessions"], counts["odd"], counts["odd_cents"]) == (SESSIONS, 2, 0)
    assert counts["quarantined"] == counts["events_open"] == counts["reports_open"] == 0


def test_the_same_quarter_replayed_again_adds_nothing(demo: Demo) -> None:
    assert demo.second == demo.first


def test_verify_is_clean(demo: Demo) -> None:
    assert demo.first["verify"]
    assert not any(demo.first["verify"].values())
