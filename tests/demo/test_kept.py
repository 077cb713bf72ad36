"""A demo that goes on running shows how to look into it; a demo that does not start ends in words."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.factories import DAY, HOUR, START, call, record, session_report, stopped_report, team
from usage_tasks.coordination.clock import TestClock
from usage_tasks.demo import report
from usage_tasks.demo.installation import POOLS, Installation
from usage_tasks.demo.stand_in import StandIn
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.tasks.usage import accounts


def test_each_queue_of_a_worker_has_one() -> None:
    assert set(POOLS) == {"usage", "billing", "stripe", "maintenance", "directory"}


def test_the_lines_name_a_file_for_the_shell_and_an_account_in_full(
    rt: Runtime, environment: dict[str, str], tmp_path: Path
) -> None:
    TestClock(rt.redis).advance(START + DAY)
    call(accounts.get_cost_center, attribution_id=team(), actor="service:tests", at=START.isoformat())
    with rt.transaction() as connection:
        record(connection, stopped_report(HOUR))
        post_batch(connection, at=START + DAY)
    directory = tmp_path / "a place"
    directory.mkdir()
    variables = {"USAGE_CONFIG": "it's", "USAGE_HEARTBEAT_DIR": str(directory / "heartbeats")}
    installation = Installation(
        directory=directory,
        environment=environment | variables,
        stand_in=StandIn("http://127.0.0.1:1"),
        clock=TestClock(rt.redis),
        database_url=environment["DATABASE_URL"],
    )
    installation.write_variables()
    lines = [line.strip() for line in report.kept(installation)]
    source = f". {shlex.quote(str(directory / 'env'))}"
    assert lines[lines.index(source) + 1] == "usage-tasks doctor"
    assert any(line.endswith(f"--account {team()}") for line in lines)
    assert any("queue server is expected" in line for line in lines)
    shown = subprocess.run(["sh", "-c", f"{source} && env"], env={}, capture_output=True, text=True, check=True).stdout
    expected = variables | {name: environment[name] for name in ("DATABASE_URL", "REDIS_URL")}
    expected |= {"USAGE_STRIPE_API_BASE": "http://127.0.0.1:1"}
    assert expected.items() <= dict(line.partition("=")[::2] for line in shown.splitlines()).items()
    assert "STRIPE_SECRET_KEY=sk_test_" in shown
    assert (directory / "env").stat().st_mode & 0o077 == 0


def test_a_database_of_somebody_else_is_refused_in_a_line(
    rt: Runtime, environment: dict[str, str], tmp_path: Path
) -> None:
    with rt.transaction() as connection:
        record(connection, session_report())
    done = subprocess.run(
        [sys.executable, "-m", "usage_tasks.cli", "demo"],
        env=environment | {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    kept, refused = done.stderr.splitlines()
    assert (done.returncode, kept.partition(":")[0]) == (2, "kept, for the logs in it")
    assert refused.startswith("DATABASE_URL names a database with sessions that are not the demo's")
