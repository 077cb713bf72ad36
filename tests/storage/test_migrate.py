"""`migrate` beside other sessions: nobody waits long for it, and its own waits are bounded and name the blocker."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from tests.storage.catalog import read_catalog
from usage_tasks.domain.errors import RetryableError
from usage_tasks.storage import migrate, schema_version
from usage_tasks.storage.schema_version import needed_revision, read_schema_version

KEY = 7_305_211
HELD = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
A_WHILE = timedelta(seconds=2)
READER_SECONDS_MAX = 4
"""A lock of a migration may keep a reader for a second; the rest is for a busy machine. Formerly it had no end."""


def plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def older_url(empty_url: str) -> str:
    """A database that lacks the migrations from 0010 on."""
    upgrade_to(empty_url, "0009")
    return empty_url


def upgrade_to(url: str, revision: str) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        command.upgrade(migrate.alembic_config(connection), revision)
    engine.dispose()


@contextmanager
def long_reader(url: str, statement: str = "SELECT count(*) FROM ledger_entry") -> Iterator[psycopg.Connection]:
    """A transaction that has read the ledger and stays open, as pg_dump's does."""
    with psycopg.connect(plain(url), application_name="nightly dump") as reader:
        reader.execute(statement.encode())
        yield reader


def test_behind_a_long_reader_nobody_else_waits_and_the_reader_is_named(older_url: str) -> None:
    slowest, ended = [0.0], threading.Event()

    def read() -> None:
        with psycopg.connect(plain(older_url), autocommit=True) as connection:
            while not ended.wait(0.05):
                started = time.monotonic()
                connection.execute("SELECT count(*) FROM ledger_entry")
                slowest[0] = max(slowest[0], time.monotonic() - started)

    reading = threading.Thread(target=read)
    with long_reader(older_url) as reader:
        reading.start()
        with pytest.raises(RetryableError, match="the migration after 0009 got no lock within") as raised:
            migrate.upgrade(older_url, patience=A_WHILE)
        ended.set()
        reading.join()
        assert f"pid {reader.info.backend_pid} (nightly dump, " in str(raised.value)
    assert slowest[0] < READER_SECONDS_MAX
    assert str(migrate.upgrade(older_url)) == f"the schema is {needed_revision()}, as this version needs it"


def test_once_the_reader_is_gone_the_migration_goes_on(older_url: str) -> None:
    with long_reader(older_url) as reader:
        threading.Timer(2.5, reader.close).start()
        migrate.upgrade(older_url)
    assert revision_of(older_url) == needed_revision()


def test_a_lock_that_a_pooled_session_kept_is_named_and_not_waited_for_without_end(empty_url: str) -> None:
    with psycopg.connect(plain(empty_url), autocommit=True, application_name="pooler") as pooled:
        pooled.execute("SELECT pg_advisory_lock(%s)", (KEY,))
        with pytest.raises(RetryableError, match="the lock of migrations is held by") as raised:
            migrate.upgrade(empty_url, patience=A_WHILE)
        assert f"pid {pooled.info.backend_pid} (pooler, " in str(raised.value)
        assert "pg_terminate_backend" in str(raised.value)


def test_no_lock_stays_with_a_session(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    with psycopg.connect(plain(empty_url)) as connection:
        left = connection.execute(HELD).fetchone()
    assert left == (0,)


def test_migrations_below_a_directory_with_a_percent_sign_are_found(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "100%25 app %(here)s"
    odd.mkdir()
    (odd / "migrations").symlink_to(schema_version.MIGRATIONS)
    monkeypatch.setattr(migrate, "MIGRATIONS", odd / "migrations")
    migrate.upgrade(empty_url)
    assert revision_of(empty_url) == needed_revision()


@pytest.mark.parametrize("revision", ["0005", "0006", "0009", "0010", "0012", "0016"])
def test_wherever_an_installation_stands_it_ends_in_the_same_schema(
    empty_url: str, database_url: str, revision: str
) -> None:
    upgrade_to(empty_url, revision)
    if revision >= "0006":  # as the migrations of before left it
        with psycopg.connect(plain(empty_url)) as connection:
            connection.execute("ALTER TABLE ledger_entry VALIDATE CONSTRAINT ledger_entry_kind_check")
            connection.execute("ALTER TABLE ledger_entry VALIDATE CONSTRAINT ledger_entry_user_id_check")
    migrate.upgrade(empty_url)
    assert read_catalog(plain(empty_url)) == read_catalog(database_url)


def test_every_constraint_and_every_index_is_valid_in_the_end(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT conname FROM pg_constraint WHERE NOT convalidated").fetchall() == []
        assert connection.execute("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid").fetchall() == []


def revision_of(url: str) -> str | None:
    engine = create_engine(url)
    with engine.connect() as connection:
        held = read_schema_version(connection).held
    engine.dispose()
    return held


def test_the_numbers_of_the_migrations_are_in_order_and_say_who_may_run_on_them(database_url: str) -> None:
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        script = ScriptDirectory.from_config(migrate.alembic_config(connection))
        newest_first = list(script.walk_revisions())
        comment = connection.execute(
            text("SELECT obj_description('alembic_version'::regclass, 'pg_class')")
        ).scalar_one()
    engine.dispose()
    revisions = [each.revision for each in reversed(newest_first)]
    assert revisions == sorted(revisions)
    assert revisions[-1] == needed_revision()
    declared = {each.revision: getattr(each.module, "compatible_from", None) for each in newest_first}
    assert [each for each in revisions if each > "0016" and declared[each] not in revisions] == []
    assert all(oldest is None or oldest <= revision for revision, oldest in declared.items())
    assert comment == f"compatible_from={max(oldest or revision for revision, oldest in declared.items())}"
