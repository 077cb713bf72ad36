"""The database's schema and the schema that the code needs: the processes that may go on, and the error with both."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.engine import make_url

from usage_tasks.domain.errors import ConnectionSettingsError, RetryableError
from usage_tasks.storage import migrate
from usage_tasks.storage.engine import Database
from usage_tasks.storage.schema_version import (
    SchemaNewerError,
    SchemaOlderError,
    SchemaState,
    SchemaVersion,
    await_schema,
    mark_compatible,
    needed_revision,
    open_database,
    read_schema_version,
)

NEWER = "9000"
revisions = st.integers(1, 9999).map("{:04}".format)


def with_driver(url: str) -> str:
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def move(database: Database, revision: str, *, compatible_from: str | None = None) -> None:
    """Put the database in the state that a version with other migrations leaves."""
    with database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        connection.execute(text("COMMENT ON TABLE alembic_version IS NULL"))
        mark_compatible(connection, revision=revision, compatible_from=compatible_from)


def test_an_older_schema_is_refused_with_both_numbers(database: Database, database_url: str) -> None:
    move(database, "0002")
    with pytest.raises(SchemaOlderError) as refused:
        open_database(with_driver(database_url))
    line = f"the schema is 0002, older than this version's {needed_revision()}: run usage-tasks migrate"
    assert str(refused.value) == f"database: {line}"
    assert not isinstance(refused.value, ConnectionSettingsError)


def test_a_database_without_a_schema_is_refused(empty_url: str) -> None:
    with pytest.raises(SchemaOlderError, match=r"there is no schema, older .*: run usage-tasks migrate"):
        open_database(empty_url)


def test_a_newer_schema_is_refused_unless_it_is_compatible(database: Database, database_url: str) -> None:
    move(database, NEWER)
    with pytest.raises(SchemaNewerError) as refused:
        open_database(with_driver(database_url))
    line = f"the schema is 9000, newer than this version's {needed_revision()}; it needs code of 9000 on"
    assert str(refused.value) == f"database: {line}: run a newer version of usage-tasks"
    move(database, NEWER, compatible_from=needed_revision())
    open_database(with_driver(database_url)).dispose()


def test_an_older_migrate_leaves_a_newer_schema_alone(database: Database, database_url: str) -> None:
    move(database, NEWER, compatible_from="8999")
    with pytest.raises(SchemaNewerError, match="newer than this version's"):
        migrate.upgrade(with_driver(database_url))
    move(database, NEWER, compatible_from=needed_revision())
    found = migrate.upgrade(with_driver(database_url))
    assert (found.held, found.state) == (NEWER, SchemaState.COMPATIBLE)
    assert str(found).endswith(f"newer than this version's {needed_revision()} and compatible with it")


def test_a_mark_never_goes_back(database: Database) -> None:
    move(database, "8000", compatible_from="7000")
    with database.transaction() as connection:
        mark_compatible(connection, revision="8001", compatible_from="6000")
        assert read_schema_version(connection).compatible_from == "7000"
        mark_compatible(connection, revision="8002", compatible_from=None)
        assert read_schema_version(connection).compatible_from == "8002"


def test_a_worker_waits_for_an_older_schema_and_begins_then(database: Database, database_url: str) -> None:
    move(database, "0002")
    waits: list[float] = []

    def migrated_meanwhile(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            move(database, needed_revision())

    await_schema(with_driver(database_url), sleep=migrated_meanwhile)
    assert len(waits) == 3


def test_a_worker_does_not_wait_for_a_database_that_is_away() -> None:
    def never(_: float) -> None:
        raise AssertionError

    await_schema("postgresql+psycopg://u@127.0.0.1:1/usage", sleep=never)


@given(held=revisions | st.none(), compatible_from=revisions | st.none(), needed=revisions)
def test_the_two_sides_are_compared_in_any_case(held: str | None, compatible_from: str | None, needed: str) -> None:
    version = SchemaVersion(held=held, compatible_from=compatible_from, needed=needed)
    older: Callable[[], bool] = lambda: held is None or int(held) < int(needed)  # noqa: E731 - reads as the rule
    assert (version.state is SchemaState.OLDER) is older()
    assert version.fits is (not older() and (held == needed or int(compatible_from or held or 0) <= int(needed)))
    assert (version.advice == "") is version.fits
    assert needed in str(version) or held == needed


def test_an_older_schema_passes_by_and_a_newer_one_is_for_a_person() -> None:
    assert issubclass(SchemaOlderError, RetryableError)
    assert issubclass(SchemaNewerError, ConnectionSettingsError)
