"""How a command ends when a server refuses it or is away: one line that names the setting, and the exit code."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from sqlalchemy.engine import make_url

from tests.factories import session_row
from tests.storage.test_connecting import PASSWORD, refusing_server, role_with_password
from tests.storage.test_migrate import KEY
from tests.storage.test_schema_version import NEWER, move
from tests.warm import start
from usage_tasks.embedded.processes import free_port
from usage_tasks.embedded.servers import Servers
from usage_tasks.storage.engine import Database
from usage_tasks.storage.schema_version import needed_revision

READ_DATABASE = ("verify",)
READ_REDIS = ("poison", "list")


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """An installation with the real time: Redis is asked by commands for Redis only."""
    return {name: value for name, value in environment.items() if name != "USAGE_TEST_CLOCK"}


def run(environment: dict[str, str], *command: str) -> tuple[int, str]:
    """Run a command in a process of its own; return the exit code and what it wrote to standard error."""
    done = start.run([sys.executable, "-m", "usage_tasks", *command], env=environment)
    return done.returncode, done.stderr


def expect(ended: tuple[int, str], code: int, *words: str) -> None:
    exit_code, line = ended
    assert (exit_code, line.count("\n")) == (code, 1), line
    assert [each for each in words if each not in line] == [], line


def database_with(environment: dict[str, str], **parts: Any) -> dict[str, str]:
    made = make_url(environment["DATABASE_URL"]).set(**parts)
    return environment | {"DATABASE_URL": made.render_as_string(hide_password=False)}


@pytest.mark.parametrize("command", [READ_DATABASE, ("migrate",), ("jobs",)])
def test_a_wrong_password_for_the_database_is_wrong_usage(
    environment: dict[str, str], servers: Servers, command: tuple[str, ...]
) -> None:
    role = "usage_test_command"
    with role_with_password(servers.database_url, role):
        wrong = database_with(environment, username=role, password="wrong-staple-7")
        ended = run(wrong, *command)
    expect(ended, 2, "database.url or DATABASE_URL: 28P01", role)
    assert "staple" not in ended[1]
    assert PASSWORD not in ended[1]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"database": "no_such_database"}, "3D000"),
        ({"username": "no_such_role"}, "28000"),
        ({"host": "no-such-host.invalid"}, "no-such-host.invalid"),
    ],
)
def test_a_database_that_does_not_exist_is_wrong_usage(
    environment: dict[str, str], parts: dict[str, Any], words: str
) -> None:
    expect(run(database_with(environment, **parts), *READ_DATABASE), 2, "database.url or DATABASE_URL: ", words)


def test_a_malformed_url_is_wrong_usage(environment: dict[str, str]) -> None:
    environment["DATABASE_URL"] = "postgresql://u:p4ssw0rd@h1:5432,h2:5432/usage"
    ended = run(environment, "migrate")
    expect(ended, 2, "database.url or DATABASE_URL: ")
    assert "p4ss" not in ended[1]


def test_a_database_that_is_away_or_starting_is_for_later(environment: dict[str, str]) -> None:
    expect(run(database_with(environment, port=free_port()), *READ_DATABASE), 75, "Connection refused")
    with refusing_server("FATAL", "57P03", "the database system is starting up") as port:
        expect(run(database_with(environment, port=port), "migrate"), 75, "57P03")
    with refusing_server("FATAL", "53300", "sorry, too many clients already") as port:
        expect(run(database_with(environment, port=port), *READ_DATABASE), 75, "53300")


def test_a_schema_that_is_not_there_yet_is_for_later_with_advice(environment: dict[str, str]) -> None:
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    expect(run(environment, *READ_DATABASE), 75, "there is no schema, older than this", "run usage-tasks migrate")


@pytest.mark.parametrize("command", [READ_DATABASE, ("jobs",), ("zombies",), ("migrate",)])
def test_a_command_names_both_versions_of_a_schema_that_does_not_fit(
    environment: dict[str, str], database: Database, command: tuple[str, ...]
) -> None:
    move(database, NEWER)
    newer = f"the schema is 9000, newer than this version's {needed_revision()}; it needs code of 9000 on"
    expect(run(environment, *command), 2, newer)
    move(database, "0002")
    if command != ("migrate",):
        older = f"the schema is 0002, older than this version's {needed_revision()}: run usage-tasks migrate"
        expect(run(environment, *command), 75, older)


def test_commands_go_on_with_a_newer_schema_that_is_compatible(environment: dict[str, str], database: Database) -> None:
    move(database, NEWER, compatible_from=needed_revision())
    assert run(environment, *READ_DATABASE)[0] == 0
    assert run(environment, "migrate")[0] == 0


def test_a_migration_that_waits_for_its_turn_names_the_holder(environment: dict[str, str]) -> None:
    with psycopg.connect(environment["DATABASE_URL"], autocommit=True, application_name="pooler") as pooled:
        pooled.execute("SELECT pg_advisory_lock(%s)", (KEY,))
        threading.Timer(4, lambda: pooled.execute("SELECT pg_advisory_unlock_all()")).start()
        code, shown = run(environment, "migrate")
        assert f"pid {pooled.info.backend_pid} (pooler, " in shown
    assert code == 0


def test_an_import_ends_as_every_command_does(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "reports.csv"
    row = session_row()
    file.write_text(f"{','.join(row)}\n{','.join(map(str, row.values()))}\n")
    expect(run(database_with(environment, database="nowhere"), "import", str(file)), 2, "3D000", "nowhere")
    expect(run(database_with(environment, port=free_port()), "import", str(file)), 75, "Connection refused")


@pytest.fixture
def narrow_user(redis_url: str) -> Iterator[str]:
    """A user of Redis who may read nothing that is ours."""
    client = redis.Redis.from_url(redis_url)
    client.execute_command("ACL", "SETUSER", "usage_test_narrow", "on", f">{PASSWORD}", "~other:*", "+@all")  # type: ignore[no-untyped-call]
    yield "usage_test_narrow"
    client.execute_command("ACL", "DELUSER", "usage_test_narrow")  # type: ignore[no-untyped-call]
    client.close()


def redis_with(environment: dict[str, str], **parts: Any) -> dict[str, str]:
    made = make_url(environment["REDIS_URL"]).set(**parts)
    return environment | {"REDIS_URL": made.render_as_string(hide_password=False)}


def test_a_redis_that_refuses_the_settings_is_wrong_usage(environment: dict[str, str], narrow_user: str) -> None:
    for parts in (
        {"username": "nobody", "password": "wrong-staple-7"},
        {"username": narrow_user, "password": "wrong-staple-7"},
        {"username": narrow_user, "password": PASSWORD},
        {"database": "9999"},
        {"host": "no-such-host.invalid"},
    ):
        ended = run(redis_with(environment, **parts), *READ_REDIS)
        expect(ended, 2, "redis or REDIS_URL: ")
        assert "staple" not in ended[1]


def test_a_redis_that_is_away_is_for_later(environment: dict[str, str]) -> None:
    expect(run(redis_with(environment, port=free_port()), *READ_REDIS), 75, "redis: ", "Connection refused")


def test_a_bug_keeps_its_traceback(environment: dict[str, str]) -> None:
    code = "import usage_tasks.cli as c; c.cli = lambda: 1 // 0; c.main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "ZeroDivisionError" in done.stderr) == (1, True)
