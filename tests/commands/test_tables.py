"""Tables are lines where nobody looks, and no value is ever shortened."""

import os
import pty
import subprocess
import sys
from typing import Final

import pytest
from typer.testing import CliRunner

from tests.factories import START
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.runtime import Runtime

LONG: Final = "team:e9db80d2-9b63-574a-94c5-e54991eee192"
SHOW: Final = """
from usage_tasks.commands.tables import show_table
show_table(("account", "a", "b", "c", "d"), [[LONG, "[bold]", "1\\t2", LONG, LONG]], total=["all", "", "3", "", LONG])
"""


def lines_of(*command: str) -> list[list[str]]:
    done = CliRunner(env={"COLUMNS": "40"}).invoke(cli, command)
    assert done.exit_code in {0, 1}, done.output
    return [line.split("\t") for line in done.stdout.splitlines() if "task.ended" not in line]  # the log is shown too


@pytest.mark.parametrize(
    ("command", "columns", "cell"),
    [
        (("jobs",), ["job", "every", "last due", "outcome", "took", "next due", "lag"], "billing.reconcile_invoices"),
        (("prices", "list"), ["class", "from"], "1970-01-01T00:00:00+00:00"),
        (("verify",), ["check", "offenders", "such as"], "0"),
        (("report", "--from", "2026-01-01", "--to", "2026-01-02"), ["day", "credits", "hours", "sessions"], "all"),
        (("webhooks", "list"), ["event", "type", "object", "made", "state", "tries", "outcome"], "event"),
    ],
)
def test_without_a_terminal_a_row_is_a_line_with_whole_values(
    rt: Runtime, command: tuple[str, ...], columns: list[str], cell: str
) -> None:
    TestClock(rt.redis).advance(START)
    header, *rows = lines_of(*command)
    assert header[: len(columns)] == columns
    assert {len(row) for row in rows} <= {len(header)}
    assert cell in {each for row in [header, *rows] for each in row}


def run_table(stdout: int) -> "subprocess.Popen[bytes]":
    code = f"LONG = {LONG!r}\n{SHOW}"
    return subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"COLUMNS": "40", "TERM": "dumb"}, stdout=stdout
    )


def test_a_tab_in_a_value_separates_nothing() -> None:
    with run_table(stdout=subprocess.PIPE) as process:
        printed = process.communicate()[0].decode()
    assert printed.splitlines() == [
        "account\ta\tb\tc\td",
        f"{LONG}\t[bold]\t1 2\t{LONG}\t{LONG}",
        f"all\t\t3\t\t{LONG}",
    ]


def test_on_a_terminal_a_long_value_goes_on_in_the_next_line_and_marks_stay_text() -> None:
    ours, theirs = pty.openpty()
    with run_table(stdout=theirs) as process:
        process.wait()
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "…" not in shown
    rows = [line.replace("┃", "│").split("│") for line in shown.splitlines()]
    columns = [
        "".join(cell.strip() for cell in column) for column in zip(*(r for r in rows if len(r) == 7), strict=True)
    ]
    assert columns[1].startswith(f"account{LONG}")
    assert columns[2] == "a[bold]"
