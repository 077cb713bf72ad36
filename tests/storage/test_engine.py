"""Passing faults of a real server: the next attempt succeeds, on a new connection if the old one is the cause."""

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, exc, text
from sqlalchemy.engine import make_url

from tests.conftest import Administer
from usage_tasks.domain.errors import ConnectionSettingsError, InvariantError, RetryableError
from usage_tasks.services.ledger.isolation import bisect_failures
from usage_tasks.storage.engine import Database, translated

PREPARED_AFTER = 6
"""psycopg prepares a statement when it runs it for the sixth time."""
READ = "SELECT number FROM probe"
WRITE = "INSERT INTO probe VALUES (1)"
SECRET = "sk_test_4eC39HqLyjWDarjtT1zdp7dc"


@pytest.fixture
def probed(database: Database) -> Database:
    """The test's database with a table of the test's own."""
    run(database, "CREATE TABLE probe (number integer CHECK (number > 0), name text UNIQUE)")
    return database


def run(database: Database, *statements: str, times: int = 1) -> None:
    with database.transaction() as connection:
        for statement in statements * times:
            connection.execute(text(statement))


def pid(database: Database) -> int:
    with database.transaction() as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def copy_into(database: Database, line: str) -> None:
    with database.transaction() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor, cursor.copy("COPY probe FROM STDIN (FORMAT csv)") as copy:
            copy.write(line)


def as_user(database_url: str, **parts: Any) -> Database:
    url = make_url(database_url).set(drivername="postgresql+psycopg", **parts)
    return Database(url.render_as_string(hide_password=False))


def name_of(database_url: str) -> str:
    name = make_url(database_url).database
    assert name is not None
    return name


@contextmanager
def read_only(database: Database, database_url: str, administer: Administer) -> Iterator[None]:
    """As after a failover behind a fixed address: every new session is read-only until it ends."""
    name = name_of(database_url)
    administer("ALTER DATABASE {} SET default_transaction_read_only = on", name)
    database.dispose()
    yield
    administer("ALTER DATABASE {} SET default_transaction_read_only = off", name)


def test_a_read_only_server_is_left_and_the_next_attempt_is_on_a_new_connection(
    probed: Database, database_url: str, administer: Administer
) -> None:
    with read_only(probed, database_url, administer):
        old = pid(probed)
        assert pid(probed) == old
    # The session stays read-only, like a session with an old primary.
    with pytest.raises(RetryableError, match="25006"):
        run(probed, WRITE)
    run(probed, WRITE)
    assert pid(probed) != old


def test_a_pool_of_read_only_connections_is_left_as_a_whole(
    probed: Database, database_url: str, administer: Administer
) -> None:
    with read_only(probed, database_url, administer), probed.transaction(), probed.transaction(), probed.transaction():
        pass
    with pytest.raises(RetryableError, match="25006"):
        run(probed, WRITE)
    with probed.transaction(), probed.transaction():
        run(probed, WRITE)


def write_in_savepoints(database: Database) -> list[tuple[int, str]]:
    def write(_items: Sequence[int]) -> None:
        connection.execute(text(WRITE))

    connection: Connection
    with database.transaction() as connection:
        return bisect_failures(connection, [1, 2, 3], write)


def test_a_read_only_server_met_inside_a_savepoint_is_left_too(
    probed: Database, database_url: str, administer: Administer
) -> None:
    with read_only(probed, database_url, administer):
        pid(probed)
    with pytest.raises(RetryableError, match="25006"):
        write_in_savepoints(probed)
    assert write_in_savepoints(probed) == []


def go_on_after_an_error(database: Database) -> None:
    with database.transaction() as connection:
        with pytest.raises(exc.DBAPIError, match="read-only"):
            connection.execute(text(WRITE))
        connection.execute(text(READ))


def test_a_connection_that_is_used_after_it_was_thrown_away_is_no_bug_of_ours(
    probed: Database, database_url: str, administer: Administer
) -> None:
    with read_only(probed, database_url, administer):
        pid(probed)
    with pytest.raises(RetryableError, match="the connection is gone"):
        go_on_after_an_error(probed)
    run(probed, WRITE)


def test_a_copy_to_a_read_only_server_is_tried_again_on_a_new_connection(
    probed: Database, database_url: str, administer: Administer
) -> None:
    with read_only(probed, database_url, administer):
        pid(probed)
    with pytest.raises(RetryableError, match="25006"):
        copy_into(probed, "1,one\n")
    copy_into(probed, "1,one\n")


def wait_too_long(database: Database, setting: str, statement: str) -> None:
    with database.transaction() as connection:
        connection.execute(text(f"SET LOCAL {setting} = 20"))
        time.sleep(0.2)
        connection.execute(text(statement))


@pytest.mark.parametrize(
    ("setting", "sqlstate", "statement"),
    [
        ("idle_in_transaction_session_timeout", "25P03", READ),
        ("transaction_timeout", "25P04", "SELECT pg_sleep(5)"),
        ("statement_timeout", "57014", "SELECT pg_sleep(5)"),
    ],
)
def test_a_time_that_ran_out_is_tried_again(probed: Database, setting: str, sqlstate: str, statement: str) -> None:
    with probed.transaction() as connection:
        if not connection.execute(text("SELECT FROM pg_settings WHERE name = :name"), {"name": setting}).all():
            pytest.skip(f"{setting} came with PostgreSQL 17")
    with pytest.raises(RetryableError, match=sqlstate):
        wait_too_long(probed, setting, statement)
    run(probed, WRITE)


def test_prepared_statements_that_a_pooler_lost_are_prepared_again(probed: Database) -> None:
    run(probed, READ, times=PREPARED_AFTER)
    run(probed, "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")  # psycopg would notice a bare one
    with pytest.raises(RetryableError, match="26000"):
        run(probed, READ)
    run(probed, READ, times=PREPARED_AFTER)


def test_prepared_statements_that_a_pooler_left_there_are_avoided(probed: Database) -> None:
    run(probed, *(f"DO $$ BEGIN EXECUTE 'PREPARE _pg3_{number} AS SELECT 1'; END $$" for number in range(5)))
    with pytest.raises(RetryableError, match="42P05"):
        run(probed, READ, times=PREPARED_AFTER)
    run(probed, READ, times=PREPARED_AFTER)


def test_a_cached_plan_that_a_migration_outdated_is_made_again(probed: Database, database_url: str) -> None:
    run(probed, READ, times=PREPARED_AFTER)
    other = as_user(database_url)
    run(other, "ALTER TABLE probe ALTER COLUMN number TYPE numeric")
    other.dispose()
    with pytest.raises(RetryableError, match="0A000 cached plan must not change"):
        run(probed, READ)
    run(probed, READ, times=PREPARED_AFTER)


def test_a_feature_that_the_server_lacks_is_permanent(probed: Database) -> None:
    run(probed, "CREATE VIEW seen AS SELECT number FROM probe")
    with pytest.raises(InvariantError, match="0A000 cannot alter type of a column used by a view"):
        run(probed, "ALTER TABLE probe ALTER COLUMN number TYPE numeric")


@pytest.mark.parametrize(
    ("before", "after", "sqlstate"),
    [
        ("ALTER TABLE probe RENAME TO moved", "ALTER TABLE moved RENAME TO probe", "42P01"),
        ("ALTER TABLE probe RENAME number TO moved", "ALTER TABLE probe RENAME moved TO number", "42703"),
    ],
)
def test_a_schema_that_is_not_there_yet_is_waited_for(probed: Database, before: str, after: str, sqlstate: str) -> None:
    run(probed, before)
    with pytest.raises(RetryableError, match=f"{sqlstate} .*run usage-tasks migrate"):
        run(probed, READ)
    run(probed, after)
    run(probed, READ)


def test_a_privilege_that_is_given_later_is_waited_for(probed: Database, database_url: str) -> None:
    role = f"{name_of(database_url)}_reader"
    run(probed, f"CREATE ROLE {role} LOGIN")
    user = as_user(database_url, username=role)
    try:
        with pytest.raises(ConnectionSettingsError, match="DATABASE_URL: 42501 permission denied for table probe"):
            run(user, READ)
        run(probed, f"GRANT SELECT ON probe TO {role}")
        run(user, READ)
    finally:
        user.dispose()
        run(probed, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_session_that_an_operator_ends_is_replaced(probed: Database) -> None:
    with pytest.raises(RetryableError, match="57P01"):
        run(probed, "SELECT pg_terminate_backend(pg_backend_pid())")
    run(probed, WRITE)


def wait_for_a_lock(database: Database) -> None:
    with database.transaction() as first, database.transaction() as second:
        first.execute(text("LOCK TABLE probe"))
        second.execute(text("SET LOCAL lock_timeout = 20"))
        second.execute(text(READ))


def test_a_lock_that_is_held_for_too_long_is_tried_again(probed: Database) -> None:
    with pytest.raises(RetryableError, match="55P03"):
        wait_for_a_lock(probed)


def test_a_statement_timeout_of_the_database_is_tried_again(database_url: str) -> None:
    hasty = Database(
        make_url(database_url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False),
        statement_timeout=timedelta(milliseconds=50),
    )
    with pytest.raises(RetryableError, match="57014"):
        run(hasty, "SELECT pg_sleep(5)")
    hasty.dispose()


def test_a_value_that_a_constraint_refuses_is_permanent(probed: Database) -> None:
    old = pid(probed)
    with pytest.raises(InvariantError, match="23514"):
        run(probed, "INSERT INTO probe VALUES (-1)")
    assert pid(probed) == old


def add_names(database: Database, statement: str) -> None:
    with database.transaction() as connection:
        for _ in range(2):
            connection.execute(text(statement), {"secret": SECRET})


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1 / (length(:secret) - length(:secret))",
        "SELECT nothing FROM probe WHERE name = :secret",
        "INSERT INTO probe (name) VALUES (:secret)",  # the key, in the detail
        "INSERT INTO probe (number, name) VALUES (-1, :secret)",  # the whole row, in the detail
    ],
)
def test_no_value_of_a_statement_gets_into_an_error_or_its_traceback(probed: Database, statement: str) -> None:
    with pytest.raises((InvariantError, RetryableError)) as raised:
        add_names(probed, statement)
    shown = "".join(traceback.format_exception(raised.value))
    assert SECRET not in shown
    assert "[SQL: " in shown


def test_no_value_of_a_copy_gets_into_an_error_or_its_traceback(probed: Database) -> None:
    with pytest.raises(InvariantError, match="22P04") as raised:
        copy_into(probed, f"1,{SECRET},too many\n")
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_an_error_of_the_driver_without_a_state_is_sorted_by_its_kind() -> None:
    for driver_error, kind in (
        (psycopg.OperationalError("server closed the connection unexpectedly"), RetryableError),
        (psycopg.OperationalError("consuming input failed: SSL connection has been closed"), RetryableError),
        (psycopg.InterfaceError("the connection is closed"), RetryableError),
        (psycopg.InternalError("unexpected poll status"), RetryableError),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), InvariantError),
    ):
        with pytest.raises(kind, match=str(driver_error)[:20]), translated():
            raise driver_error
