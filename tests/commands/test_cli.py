"""The command line, on an installation of its own."""

import json
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from tests.factories import DAY, HOUR, START, record, stopped_report
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.post_usage import post_batch

ADD = ("prices", "add", "xlarge", "2", "--from", START.date().isoformat())


@pytest.fixture
def installation(rt: Runtime) -> Runtime:
    """One posted session of an hour, and a day later."""
    TestClock(rt.redis).advance(START + DAY)
    with rt.transaction() as connection:
        record(connection, stopped_report(HOUR, workspace_class="xlarge"))
        post_batch(connection, at=START + DAY)
    return rt


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, env={"COLUMNS": "200"})


def answer(*arguments: str) -> Any:
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout[done.stdout.index("{\n") :])


def versions(rt: Runtime) -> int:
    with rt.transaction() as connection:
        return int(connection.execute(text("SELECT count(*) FROM price_version")).scalar_one())


def test_a_price_is_shown_what_would_follow_and_applied_when_told(installation: Runtime) -> None:
    before = versions(installation)
    dry = answer(*ADD, "--minimum", "0.5", "--step", "1m")
    assert dry["dry_run"]["repricing"]["adjustments"]["credit_cents"] == 6000
    assert dry["dry_run"]["version"]["rule"] == {"minimum_cents": 50, "rounding_seconds": 60}
    assert versions(installation) == before
    assert answer(*ADD, "--minimum", "0.5", "--step", "1m", "--apply") == dry["dry_run"]
    assert versions(installation) == before + 1


def test_prices_are_listed_with_where_they_came_from(installation: Runtime) -> None:
    answer(*ADD, "--apply")
    listed = run("prices", "list", "xlarge").output
    assert "configuration" in listed
    assert "operator" in listed
    assert "small" not in listed
    assert "small" in run("prices", "list").output


@pytest.mark.parametrize("step", ["1500ms", "soon"])
def test_a_step_that_is_no_whole_seconds_is_refused(installation: Runtime, step: str) -> None:
    assert run(*ADD, "--step", step).exit_code == 2


def test_a_version_that_stands_is_refused(installation: Runtime) -> None:
    answer(*ADD, "--apply")
    assert isinstance(run(*ADD).exception, InvalidInputError)


def test_a_deployment_publishes_the_rules_of_the_file_once(
    environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    environment["USAGE_WORKSPACE_CLASS_RULES"] = '{"xlarge": {"minimumCredits": 0.5, "roundingStep": "1m"}}'
    rt: Runtime = request.getfixturevalue("installation")
    answer(*ADD, "--apply")
    assert "1 price versions are new" in run("migrate").output
    TestClock(rt.redis).advance(START + 2 * DAY)
    assert "0 price versions are new" in run("migrate").output
    with rt.transaction() as connection:
        latest = "SELECT * FROM price_version WHERE workspace_class = 'xlarge' ORDER BY effective_from DESC LIMIT 1"
        row = connection.execute(text(latest)).one()
    assert (row.effective_from, row.minimum_cents, row.rounding_seconds) == (START + DAY, 50, 60)


def test_a_session_and_an_entry_are_explained(installation: Runtime) -> None:
    with installation.transaction() as connection:
        (entry,) = connection.execute(text("SELECT attribution_id, key, instance_id FROM ledger_entry")).all()
    assert "It costs 6000 credit cents (60.00 credits)." in run("explain", str(entry.instance_id)).output
    words = run("explain", entry.key, "--account", entry.attribution_id).output
    assert f"{entry.key}, the entry asked for: 6000" in words
    assert answer("explain", str(entry.instance_id), "--json")["numbers"]["credit_cents"] == 6000
    earlier = run("explain", str(entry.instance_id), "--at", "2026-01-01T00:30:00").output
    assert "It is a draft: 3000 credit cents are not posted." in earlier
