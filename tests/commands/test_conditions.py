"""Every command of `cli.py` where the installation is not whole: one line and the exit code that is documented."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.commands import tree
from tests.factories import make_id, session_row, team
from usage_tasks.commands import TRY_AGAIN, USAGE_ERROR, WRONG
from usage_tasks.embedded.processes import free_port

pytestmark = pytest.mark.timeout(180)

SPAN: Final = ("--from", "2026-01-01", "--to", "2026-01-02")
ID: Final = str(make_id("session"))
DIGEST: Final = "0" * 64
COMMANDS: Final[tuple[tuple[str, ...], ...]] = (
    ("report", *SPAN),
    ("report", *SPAN, "--format", "csv"),
    ("drift",),
    ("drift", "--fix"),
    ("check-stripe",),
    ("jobs",),
    ("jobs", "--json"),
    ("doctor",),
    ("doctor", "--json"),
    ("verify",),
    ("verify", "--at", "2026-01-01"),
    ("grants", team()),
    ("explain", ID),
    ("explain", "key", "--account", team()),
    ("import", "FILE"),
    ("import", "FILE", "--dry-run"),
    ("zombies",),
    ("release", ID),
    ("release", ID, "--dry-run"),
    ("prices", "list"),
    ("prices", "add", "small", "1", "--from", "2026-01-01"),
    ("prices", "add", "small", "1", "--from", "2026-01-01", "--apply"),
    ("poison", "list"),
    ("poison", "show", "nothing"),
    ("poison", "replay", "nothing"),
    ("poison", "drop", "nothing"),
    ("quarantine",),
    ("quarantine", "release", "--all"),
    ("quarantine", "release", "--all", "--apply"),
    ("quarantine", "drop", DIGEST),
    ("quarantine", "drop", "--all", "--apply"),
    ("webhooks", "list"),
    ("webhooks", "show", "evt_1"),
    ("webhooks", "replay", "--all"),
    ("webhooks", "replay", "--all", "--apply"),
    ("webhooks", "drop", "evt_1", "--reason", "why"),
    ("webhooks", "drop", "--all", "--reason", "why", "--apply"),
    ("invoices", "reconcile"),
    ("invoices", "reconcile", "--dry-run"),
    ("invoices", "finalize", team(), "in_1"),
    ("invoices", "cancel-subscription", team()),
    ("parked", "list"),
    ("parked", "release", team()),
    ("installation", "show"),
    ("installation", "adopt"),
    ("installation", "new"),
    ("names", "show", team()),
    ("names", "set", team(), "a name"),
    ("names", "namespace"),
    ("settings",),
    ("schemas",),
    ("health", "worker"),
    ("migrate",),  # the last: it mends what the others are tried on
)
SERVERS: Final = {"exporter", "flower", "webhook"}
ELSEWHERE: Final = {"demo"}
"""It brings its own installation."""
REPORTS: Final = {"doctor"}
"""It writes what it finds to standard output, also what is away."""
NEEDS_NOTHING: Final = {"settings", "schemas", "health"}


def names() -> set[str]:
    """Every command that can be run, without its group's options."""
    lines = [line.removeprefix("usage-tasks ") for line in tree.lines() if line.startswith("usage-tasks ")]
    return {line for line in lines if not any(other.startswith(f"{line} ") for other in lines) or line == "quarantine"}


def test_every_command_is_tried() -> None:
    tried = {" ".join(each[:2]) if " ".join(each[:2]) in names() else each[0] for each in COMMANDS}
    assert names() == tried | SERVERS | ELSEWHERE


def other_port(url: str) -> str:
    return make_url(url).set(port=free_port()).render_as_string(hide_password=False)


def real_time(environment: Mapping[str, str]) -> dict[str, str]:
    return {**environment, "USAGE_TEST_CLOCK": "false", "STRIPE_SECRET_KEY": "sk_test_1"} | {
        "USAGE_STRIPE_API_BASE": f"http://127.0.0.1:{free_port()}"
    }


def before_migrate(environment: dict[str, str]) -> dict[str, str]:
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return real_time(environment)


def redis_away(environment: dict[str, str]) -> dict[str, str]:
    return real_time(environment) | {"REDIS_URL": other_port(environment["REDIS_URL"])}


def database_away(environment: dict[str, str]) -> dict[str, str]:
    return real_time(environment) | {"DATABASE_URL": other_port(environment["DATABASE_URL"])}


def all_away(environment: dict[str, str]) -> dict[str, str]:
    return database_away(redis_away(environment))


def redis_away_with_a_test_clock(environment: dict[str, str]) -> dict[str, str]:
    return redis_away(environment) | {"USAGE_TEST_CLOCK": "true"}


def clock_of_tests_not_set(environment: dict[str, str]) -> dict[str, str]:
    return real_time(environment) | {"USAGE_TEST_CLOCK": "true"}


def read_only(environment: dict[str, str]) -> dict[str, str]:
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            f"ALTER DATABASE {make_url(environment['DATABASE_URL']).database} SET default_transaction_read_only = on"
        )
    return real_time(environment)


def newer_schema(environment: dict[str, str]) -> dict[str, str]:
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    return real_time(environment)


def no_stripe_key(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in real_time(environment).items() if name != "STRIPE_SECRET_KEY"}


def no_settings(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("USAGE_")}


def foreign_file_as_settings(environment: dict[str, str]) -> dict[str, str]:
    return real_time(environment) | {"USAGE_CONFIG": sys.executable}


CONDITIONS: Final = (
    before_migrate,
    redis_away,
    database_away,
    all_away,
    redis_away_with_a_test_clock,
    clock_of_tests_not_set,
    read_only,
    newer_schema,
    no_stripe_key,
    no_settings,
    foreign_file_as_settings,
)


@pytest.fixture(scope="module")
def warm() -> Iterator["subprocess.Popen[str]"]:
    """A process that has imported every command, without the variables of any installation."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("USAGE_", "STRIPE_"))}
    command = [sys.executable, "-m", "tests.commands.forked"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=bare, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def run_all(
    warm: "subprocess.Popen[str]", environment: Mapping[str, str], commands: list[tuple[str, ...]]
) -> list[tuple[int, str]]:
    """Run each command line with these variables; return the exit code of each and what it wrote to standard error."""
    assert warm.stdin is not None
    assert warm.stdout is not None
    warm.stdin.write(f"{json.dumps({'environment': dict(environment), 'commands': commands})}\n")
    warm.stdin.flush()
    return [(code, said) for code, said in json.loads(warm.stdout.readline())]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda each: each.__name__)
def test_a_command_ends_in_words_and_with_its_exit_code(
    environment: dict[str, str],
    tmp_path: Path,
    condition: Any,
    warm: "subprocess.Popen[str]",
    subtests: pytest.Subtests,
) -> None:
    row = session_row()
    file = tmp_path / "reports.csv"
    file.write_text(f"{','.join(row)}\n{','.join(map(str, row.values()))}\n")
    commands = [tuple(str(file) if part == "FILE" else part for part in each) for each in COMMANDS]
    for command, (code, said) in zip(commands, run_all(warm, condition(environment), commands), strict=True):
        with subtests.test(" ".join(command)):
            assert "Traceback" not in said, said
            assert code in {0, WRONG, USAGE_ERROR, TRY_AGAIN}, (code, said)
            if code in {USAGE_ERROR, TRY_AGAIN} and command[0] not in REPORTS:
                words = [line for line in said.splitlines() if not line.startswith("{")]  # beside a line of the log
                assert len(words) == 1 or words[0].startswith(("settings can't be used:", "Usage: ")), said
                assert "task.refused" not in said
            if condition in {before_migrate, database_away, all_away} and command[0] not in NEEDS_NOTHING | REPORTS:
                assert code != 0 or command[0] in {"migrate", "poison", "check-stripe"}, said


@pytest.mark.parametrize(
    "command",
    [("exporter", "--port", "PORT"), ("flower", "--port", "PORT"), ("webhook",)],
    ids=lambda command: command[0],
)
def test_a_server_on_a_taken_port_ends_in_a_line(environment: dict[str, str], command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "usage_tasks", *(port if part == "PORT" else part for part in command)],
            env=real_time(environment)
            | {"USAGE_SERVER__PORT": port, "FLOWER_BASIC_AUTH": "ops:secret", "STRIPE_WEBHOOK_SECRET": "whsec_1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr.count("\n")) == (USAGE_ERROR, 1), done.stderr
    assert f"can't listen at 127.0.0.1, port {port}: another process listens there" in done.stderr
