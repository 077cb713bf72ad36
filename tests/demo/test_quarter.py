"""The real quarter through real processes, compared with the same quarter billed by other code."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.demo.independent import FILE, bill_everybody, read_runs
from tests.server_directory import server_directory

pytestmark = pytest.mark.timeout(280)
SESSIONS = 17_900


def run_demo(directory: Path, *arguments: str) -> tuple[list[dict[str, Any]], str]:
    """Run the demo as a newcomer does, with ticks three days apart. Return its results and its output."""
    outcome = directory / "outcome.json"
    environment = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    with server_directory() as data:
        done = subprocess.run(
            [sys.executable, "-m", "usage_tasks.cli", "demo", "--tick=72h", f"--json={outcome}", *arguments],
            env=environment | {"TMPDIR": str(data)},
            capture_output=True,
            text=True,
            timeout=270,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(outcome.read_text()), done.stdout


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of two replays, one after the other on the same database."""
    return run_demo(tmp_path_factory.mktemp("twice"), "--replays=2")[0]


def test_every_account_is_billed_as_an_independent_computation_says(twice: list[dict[str, Any]]) -> None:
    assert twice[0]["accounts"] == bill_everybody()


def test_no_session_is_lost_and_the_two_that_stop_before_they_start_cost_nothing(twice: list[dict[str, Any]]) -> None:
    counts = twice[0]["counts"]
    assert sum(map(len, read_runs().values())) == SESSIONS, FILE
    assert (counts["sessions"], counts["odd"], counts["odd_cents"]) == (SESSIONS, 2, 0)
    assert counts["quarantined"] == counts["events_open"] == counts["reports_open"] == 0


def test_the_same_quarter_replayed_again_adds_nothing(twice: list[dict[str, Any]]) -> None:
    first, second = twice
    assert second == first


def test_verify_is_clean(twice: list[dict[str, Any]]) -> None:
    assert twice[0]["verify"]
    assert not any(twice[0]["verify"].values())


def test_a_worker_killed_in_the_middle_changes_no_cent(twice: list[dict[str, Any]], tmp_path: Path) -> None:
    killed, printed = run_demo(tmp_path, "--kill-worker")
    assert "killed the usage worker" in printed
    assert killed[0]["accounts"] == twice[0]["accounts"]
    assert killed[0]["ledger_invoices"] == twice[0]["ledger_invoices"]
