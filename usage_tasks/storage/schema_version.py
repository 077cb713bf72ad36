"""Compare the schema of a database with the schema that this version's code needs.

A revision is the number of a migration. The table of Alembic has the database's; its comment has the oldest revision
whose code may still run on it, which each migration declares as `compatible_from`.
"""

import re
import time
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, assert_never

import structlog
from sqlalchemy import Connection, text

from usage_tasks.domain.errors import ConnectionSettingsError, RetryableError
from usage_tasks.storage.engine import Database

MIGRATIONS: Final = Path(__file__).parent / "migrations"
POLL: Final = timedelta(seconds=1)
REPEAT: Final = timedelta(seconds=10)

_READ: Final = """
    SELECT (SELECT max(version_num) FROM alembic_version),
           obj_description('alembic_version'::regclass, 'pg_class')
"""
_COMMENT: Final = re.compile(r"^compatible_from=(\d{4})$")

log = structlog.get_logger(__name__)


class SchemaOlderError(RetryableError):
    """The database lacks migrations of this version. It passes by: somebody runs `usage-tasks migrate`."""


class SchemaNewerError(ConnectionSettingsError):
    """The database has migrations that this version's code cannot work with."""


class SchemaState(StrEnum):
    """The schema of a database, as this version's code sees it."""

    CURRENT = "current"
    OLDER = "older"
    COMPATIBLE = "newer, compatible"
    NEWER = "newer"


class SchemaVersion(NamedTuple):
    """The revision of a database, the oldest revision whose code may run on it, and the revision of this version."""

    held: str | None
    compatible_from: str | None
    needed: str

    @property
    def state(self) -> SchemaState:
        """Compare the two sides."""
        if self.held is None or self.held < self.needed:
            return SchemaState.OLDER
        if self.held == self.needed:
            return SchemaState.CURRENT
        # A newer schema without the mark is of a migration that declares nothing.
        return SchemaState.COMPATIBLE if (self.compatible_from or self.held) <= self.needed else SchemaState.NEWER

    @property
    def fits(self) -> bool:
        """True if this version's code can work on the schema."""
        return self.state in {SchemaState.CURRENT, SchemaState.COMPATIBLE}

    @property
    def advice(self) -> str:
        """The advice to the operator; empty if there is nothing to do."""
        match self.state:
            case SchemaState.CURRENT | SchemaState.COMPATIBLE:
                return ""
            case SchemaState.OLDER:
                return "run usage-tasks migrate"
            case SchemaState.NEWER:
                return "run a newer version of usage-tasks"
            case _:
                assert_never(self.state)

    def __str__(self) -> str:
        """Return one line that names both sides, and which of them is older."""
        match self.state:
            case SchemaState.CURRENT:
                return f"the schema is {self.held}, as this version needs it"
            case SchemaState.COMPATIBLE:
                return f"the schema is {self.held}, newer than this version's {self.needed} and compatible with it"
            case SchemaState.NEWER:
                oldest = self.compatible_from or self.held
                return (
                    f"the schema is {self.held}, newer than this version's {self.needed}; it needs code of {oldest} on"
                )
            case SchemaState.OLDER:
                there = f"the schema is {self.held}" if self.held else "there is no schema"
                return f"{there}, older than this version's {self.needed}"
            case _:
                assert_never(self.state)


@cache
def needed_revision() -> str:
    """Return the newest migration of this version."""
    return max(each.name[:4] for each in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def read_schema_version(connection: Connection) -> SchemaVersion:
    """Return the versions of both sides."""
    held, comment = None, None
    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one() is not None:
        held, comment = connection.execute(text(_READ)).one()
    marked = _COMMENT.match(comment or "")
    return SchemaVersion(held=held, compatible_from=marked[1] if marked else None, needed=needed_revision())


def mark_compatible(connection: Connection, *, revision: str, compatible_from: str | None) -> None:
    """Note the oldest revision whose code may run on a schema to which `revision` was just added."""
    before = read_schema_version(connection).compatible_from
    oldest = max(compatible_from or revision, before or "")
    connection.execute(text(f"COMMENT ON TABLE alembic_version IS 'compatible_from={int(oldest):04}'"))


def check_schema(connection: Connection) -> None:
    """Raise SchemaOlderError or SchemaNewerError if this version's code cannot work on the schema."""
    found = read_schema_version(connection)
    if found.state is SchemaState.OLDER:
        raise SchemaOlderError(f"database: {found}: {found.advice}")
    if found.state is SchemaState.NEWER:
        raise SchemaNewerError(f"database: {found}: {found.advice}")


def open_database(url: str) -> Database:
    """Return the database. Raises as `check_schema` and `Database.transaction` do."""
    database = Database(url)
    try:
        with database.transaction() as connection:
            check_schema(connection)
    except BaseException:
        database.dispose()
        raise
    return database


def await_schema(url: str, *, sleep: Callable[[Any], object] = time.sleep) -> None:
    """Wait until the schema is not older than this version's code needs it; log a line every 10 seconds.

    A database that is away is not waited for: tasks try again by themselves. Raises SchemaNewerError.
    """
    logged_at = time.monotonic() - REPEAT.total_seconds()
    while True:
        try:
            open_database(url).dispose()
        except SchemaOlderError as error:
            if time.monotonic() - logged_at >= REPEAT.total_seconds():
                logged_at = time.monotonic()
                log.warning("worker.waits_for_schema", reason=str(error))
            sleep(POLL.total_seconds())
        except SchemaNewerError:
            raise
        except RetryableError as error:
            log.warning("worker.schema_unknown", reason=str(error))
            return
        else:
            return
