"""The exit codes that differ from the rule, as docs/reference/commands.md lists them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.commands.test_failures import database_with
from tests.factories import team
from usage_tasks.embedded.processes import free_port

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
UNKNOWN = "5d8f0c0e-6f0b-4b39-9d2c-6d0f7a4a2b11"
DIGEST = "0" * 64
OF_UNKNOWN_IDS = {
    "webhooks show": ("evt_none",),
    "explain": (UNKNOWN,),
    "release": (UNKNOWN,),
    "poison show": (UNKNOWN,),
    "poison replay": (UNKNOWN,),
    "poison drop": (UNKNOWN,),
    "webhooks replay": ("evt_none", "--apply"),
    "webhooks drop": ("evt_none", "--reason", "gone", "--apply"),
    "quarantine release": (DIGEST, "--apply"),
    "quarantine drop": (DIGEST, "--apply"),
    "grants": (team(),),
}


def listed(case: str) -> Iterator[tuple[str, int]]:
    """Yield each command that the page lists for a case, with the exit code."""
    named = ""
    for cells in re.findall(r"^\| (.*)\| (`.+) \| (\d+) \|$", PAGE.read_text(), re.MULTILINE):
        named = cells[0].strip() or named
        if named == case:
            yield from ((command, int(cells[2])) for command in re.findall(r"`([^`]+)`", cells[1]))


def run(environment: dict[str, str], commands: Sequence[Sequence[str]]) -> list[int]:
    """Return the exit code of each command, by the real clock."""
    variables = {name: value for name, value in environment.items() if name != "USAGE_TEST_CLOCK"}
    asked = json.dumps({"environment": variables, "commands": commands})
    done = subprocess.run(
        [sys.executable, "-m", "tests.commands.forked"], input=f"{asked}\n", capture_output=True, text=True, check=True
    )
    return [code for code, _ in json.loads(done.stdout)]


def test_an_id_that_does_not_exist(environment: dict[str, str]) -> None:
    wanted = dict(listed("an id that does not exist"))
    assert wanted.pop("parked release") == 0  # it asks for Stripe's key first; see services/metering/parked.py
    assert set(wanted) == set(OF_UNKNOWN_IDS)
    codes = run(environment, [[*command.split(), *OF_UNKNOWN_IDS[command]] for command in wanted])
    assert dict(zip(wanted, codes, strict=True)) == wanted


def test_a_database_that_is_away(environment: dict[str, str]) -> None:
    wanted = dict(listed("the database is away"))
    away = database_with(environment, port=free_port())
    assert wanted == {"doctor": 1, "health": 1}
    assert run(away, [["doctor"], ["jobs"], ["verify"]]) == [1, 75, 75]
