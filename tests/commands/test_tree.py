"""The command line as a whole: what it offers, and what it imports for that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import tree
from usage_tasks.cli import COMMANDS, load

HEAVY = ("sqlalchemy", "psycopg", "celery", "kombu", "pydantic", "stripe", "alembic", "flower", "redis", "structlog")


def imported_by(*arguments: str) -> set[str]:
    """Run a command in a process of its own; answer the top-level names of what it had imported at its end."""
    code = f"""
import atexit, sys
atexit.register(lambda: sys.stderr.write("\\n" + " ".join({{name.partition(".")[0] for name in sys.modules}})))
from usage_tasks.__main__ import main
sys.argv = ["usage-tasks", *{arguments!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    imported = set(done.stderr.splitlines()[-1].split())
    assert "usage_tasks" in imported, done.stderr
    return imported


def test_no_command_and_no_option_changes_unnoticed() -> None:
    assert tree.lines() == Path(tree.__file__).with_name("tree.txt").read_text().splitlines()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_has_the_first_line_of_each_commands_own_help(name: str) -> None:
    assert COMMANDS[name].help == load(name).help.split("\n\n")[0].replace("\n", " ")


@pytest.mark.parametrize("arguments", [("--help",), ()], ids=["help", "nothing"])
def test_help_imports_no_command(arguments: tuple[str, ...]) -> None:
    imported = imported_by(*arguments)
    assert "typer" in imported
    assert imported & set(HEAVY) == set()


@pytest.mark.parametrize(
    ("arguments", "unused"),  # pydantic is not among them: typer reads values with it
    [
        (("flower",), {"sqlalchemy", "psycopg", "celery", "stripe", "alembic"}),
        (("settings",), {"sqlalchemy", "psycopg", "celery", "stripe", "alembic"}),
        (("demo", "--tick", "1s"), {"stripe", "alembic"}),
        (("health", "worker"), {"typer", "rich", *HEAVY}),
    ],
    ids=["flower", "settings", "demo", "health"],
)
def test_a_command_imports_no_more_than_it_uses(arguments: tuple[str, ...], unused: set[str]) -> None:
    assert imported_by(*arguments) & unused == set()


def test_a_mistyped_command_is_corrected() -> None:
    command = [sys.executable, "-m", "usage_tasks", "pricess"]
    environment = os.environ | {"COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert (done.returncode, "Did you mean 'prices'?" in done.stderr) == (2, True)
