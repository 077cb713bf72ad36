"""A refused connection: its SQLSTATE is found, though libpq gives only the server's words."""

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from usage_tasks.domain.errors import ConnectionSettingsError, RetryableError
from usage_tasks.embedded.processes import free_port
from usage_tasks.embedded.servers import Servers
from usage_tasks.settings.database_url import parse_database_url
from usage_tasks.storage import connecting, migrate
from usage_tasks.storage.engine import Database
from usage_tasks.storage.schema_version import open_database

PASSWORD = "correct-horse-9"
GERMAN = "Passwort-Authentifizierung für Benutzer »u« fehlgeschlagen"


def with_driver(url: str, **parts: Any) -> str:
    return make_url(url).set(drivername="postgresql+psycopg", **parts).render_as_string(hide_password=False)


def connect(url: str) -> None:
    database = Database(url)
    try:
        with database.transaction() as connection:
            connection.execute(text("SELECT 1"))
    finally:
        database.dispose()


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has not met a refusal yet."""
    monkeypatch.setattr(connecting, "_known", {})


@contextmanager
def role_with_password(server: str, role: str) -> Iterator[None]:
    """A role of which the server demands a password (SCRAM), as most servers do of all roles."""
    with psycopg.connect(server, autocommit=True) as connection:
        (name,) = connection.execute("SHOW hba_file").fetchone() or ("",)
        rules = Path(str(name))
        if not os.access(rules, os.W_OK):
            pytest.skip("the server's rules for passwords cannot be changed here")
        before = rules.read_text()
        try:
            connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
            rules.write_text(f"host all {role} all scram-sha-256\n{before}")
            reload(connection)
            yield
        finally:
            rules.write_text(before)
            reload(connection)
            connection.execute(f"DROP ROLE {role}")


def reload(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Wait until the server has read its files again: new connections meet the new rules."""
    (before,) = connection.execute("SELECT pg_conf_load_time()").fetchone() or (None,)
    connection.execute("SELECT pg_reload_conf()")
    while connection.execute("SELECT pg_conf_load_time()").fetchone() == (before,):
        time.sleep(0.01)


@contextmanager
def refusing_server(severity: str, sqlstate: str, words: str) -> Iterator[int]:
    """Refuse every connection over PostgreSQL's own protocol, with an error in another language."""
    fields = (("S", severity), ("V", "FATAL"), ("C", sqlstate), ("M", words))
    body = b"".join(kind.encode() + value.encode() + b"\0" for kind, value in fields) + b"\0"
    answer = b"E" + struct.pack("!I", len(body) + 4) + body

    def serve() -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            with closing(accepted):
                request = accepted.recv(4096)
                if request[4:8] == struct.pack("!I", 80877103):  # the request for TLS
                    accepted.sendall(b"N")
                    accepted.recv(4096)
                accepted.sendall(answer)

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def test_a_wrong_password_is_known_by_its_state_and_is_not_shown(servers: Servers) -> None:
    role = "usage_test_login"
    with role_with_password(servers.database_url, role):
        connect(with_driver(servers.database_url, username=role, password=PASSWORD))
        for password in ("wrong-staple-7", None):
            with pytest.raises(ConnectionSettingsError, match="DATABASE_URL: 28P01 ") as refused:
                connect(with_driver(servers.database_url, username=role, password=password))
            assert "staple" not in str(refused.value)
            assert "\n" not in str(refused.value)


def test_a_password_that_is_rotated_is_waited_for(servers: Servers) -> None:
    role = "usage_test_rotated"
    with role_with_password(servers.database_url, role):
        database = Database(with_driver(servers.database_url, username=role, password="new-battery-3"))
        with pytest.raises(RetryableError, match="28P01"), database.transaction():
            pass
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            connection.execute(f"ALTER ROLE {role} PASSWORD 'new-battery-3'")
        with database.transaction() as begun:
            assert begun.execute(text("SELECT 1")).scalar_one() == 1
        database.dispose()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"database": "no_such_database"}, "3D000 .*no_such_database"),
        ({"username": "no_such_role"}, "28000 .*no_such_role"),
        ({"host": "no-such-host.invalid"}, "08004 failed to resolve host"),
        ({"host": "a" * 64}, "08004 .*label"),
        ({"host": "db..example"}, "08004 .*label"),
        ({"query": {"sslmode": "sometimes"}}, "08004 .*sslmode"),
        ({"query": {"sslmode": "require"}}, "08004 .*server does not support SSL"),
        ({"query": {"no_such_option": "1"}}, "08004 .*no_such_option"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(servers: Servers, parts: dict[str, object], message: str) -> None:
    with pytest.raises(ConnectionSettingsError, match=f"database.url or DATABASE_URL: {message}") as refused:
        connect(with_driver(servers.database_url, **parts))
    assert "\n" not in str(refused.value)


def search_path_of(url: str) -> str:
    database = Database(url)
    with database.transaction() as connection:
        found = str(connection.execute(text("SHOW search_path")).scalar_one())
        assert connection.execute(text("SHOW timezone")).scalar_one() == "UTC"
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "4min"
    database.dispose()
    return found


def test_a_schema_that_the_url_names_is_that_of_migrate_and_of_everything_else(empty_url: str) -> None:
    url = make_url(empty_url).update_query_dict({"options": "-csearch_path=billing -c statement_timeout=1"})
    in_schema = url.render_as_string(hide_password=False)
    with psycopg.connect(
        make_url(empty_url).set(drivername="postgresql").render_as_string(hide_password=False)
    ) as connection:
        connection.execute("CREATE SCHEMA billing")
    migrate.upgrade(in_schema)
    open_database(in_schema).dispose()
    assert search_path_of(in_schema) == "billing"
    with psycopg.connect(
        make_url(empty_url).set(drivername="postgresql").render_as_string(hide_password=False)
    ) as connection:
        found = connection.execute("SELECT DISTINCT schemaname::text FROM pg_stat_user_tables").fetchall()
    assert found == [("billing",)]


def test_what_psql_takes_from_pgoptions_holds_too(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", "-csearch_path=elsewhere")
    assert search_path_of(with_driver(servers.database_url)) == "elsewhere"


def test_with_two_hosts_the_one_that_answers_is_used(servers: Servers) -> None:
    url = make_url(servers.database_url)
    both = f"postgresql://{url.username}@127.0.0.1:{free_port()},127.0.0.1:{url.port}/{url.database}"
    connect(parse_database_url(both).replace("postgresql:", "postgresql+psycopg:"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:p4ssw0rd@h1:5432,h2:5432/usage",
        "postgresql+psycopg://u@h1:p4ssw0rd/usage",
    ],
)
def test_a_malformed_url_is_named_and_not_shown(url: str) -> None:
    for use in (connect, migrate.upgrade):
        with pytest.raises(ConnectionSettingsError, match="DATABASE_URL: must be postgresql://") as refused:
            use(url)
        assert "p4ss" not in str(refused.value)
        assert refused.value.__suppress_context__


def test_the_state_is_found_whatever_the_language_of_the_server() -> None:
    for severity, sqlstate, words, kind in (
        ("FATAL", "28P01", GERMAN, ConnectionSettingsError),
        ("ВАЖНО", "57P03", "система баз данных запускается", RetryableError),
    ):
        with refusing_server(severity, sqlstate, words) as port, pytest.raises(RetryableError) as raised:
            connect(f"postgresql+psycopg://u:p@127.0.0.1:{port}/usage")
        assert type(raised.value) is kind
        assert f"{sqlstate} connection failed" in str(raised.value)
        assert words in str(raised.value)


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("53300", RetryableError),
        ("57P03", RetryableError),
        ("55000", RetryableError),
        ("ZZ001", RetryableError),
        ("28000", ConnectionSettingsError),
    ]
    + [(state, ConnectionSettingsError) for state in ("22023", "42501", "08004")],
)
def test_a_refusal_is_a_setting_or_passes_by_and_is_never_a_bug(sqlstate: str, kind: type[RetryableError]) -> None:
    with refusing_server("FATAL", sqlstate, f"no {sqlstate}") as port, pytest.raises(RetryableError) as raised:
        connect(f"postgresql+psycopg://u:p@127.0.0.1:{port}/usage")
    assert type(raised.value) is kind


def test_a_server_that_is_away_is_no_wrong_setting() -> None:
    with pytest.raises(RetryableError) as raised:
        connect(f"postgresql+psycopg://u:p@127.0.0.1:{free_port()}/usage")
    assert type(raised.value) is RetryableError
    with pytest.raises(RetryableError, match="No such file") as raised:
        connect("postgresql+psycopg://u:p@/usage?host=/no/such/directory")
    assert type(raised.value) is RetryableError


def test_a_refusal_that_is_known_costs_no_second_connection() -> None:
    with refusing_server("FATAL", "53300", "too many") as port:
        for _ in range(3):
            with pytest.raises(RetryableError, match="53300"):
                connect(f"postgresql+psycopg://u:p@127.0.0.1:{port}/usage")
    assert list(vars(connecting)["_known"].values()) == ["53300"]
