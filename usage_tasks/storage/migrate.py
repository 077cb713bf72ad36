"""Bring a database to the schema of this version.

No migration waits for long in the queue of a lock: everybody else would wait behind it. It gives up after LOCK_WAIT,
lets the others pass, and tries again. How to write a migration: migration_steps.py.
"""

import time
from datetime import timedelta
from typing import Final

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, NullPool, exc, text

from usage_tasks.domain.errors import RetryableError
from usage_tasks.storage.blockers import describe_holders, watched_blockers
from usage_tasks.storage.engine import new_engine, translated
from usage_tasks.storage.schema_version import (
    MIGRATIONS,
    SchemaNewerError,
    SchemaState,
    SchemaVersion,
    read_schema_version,
)

LOCK_WAIT: Final = timedelta(seconds=1)
"""The longest time for which a statement stands in the queue of a lock, and others behind it."""
PATIENCE: Final = timedelta(minutes=5)
"""The time for all attempts together without a migration that succeeds; then `migrate` ends, and may be run again."""

_PAUSE: Final = timedelta(milliseconds=500)
_PAUSE_MAX: Final = timedelta(seconds=10)
_LOCK_KEY: Final = 7_305_211
"""Any number, the same everywhere: two migrations at once wait for one another."""
_IN_THE_WAY: Final = frozenset({"55P03", "40P01"})
"""A lock that was not free in time, and a deadlock."""
_SESSION: Final = {
    "timezone": "UTC",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": str(LOCK_WAIT // timedelta(milliseconds=1)),
}

log = structlog.get_logger(__name__)


def alembic_config(connection: Connection) -> Config:
    """Configure Alembic for a connection that the caller owns."""
    config = _config()
    config.attributes["connection"] = connection
    return config


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))  # it interpolates
    return config


def upgrade(url: str, *, patience: timedelta = PATIENCE) -> SchemaVersion:
    """Apply every migration that the database lacks; return what holds then.

    Safe to run again and from several machines at once.

    Does nothing on a newer schema that is compatible with this version. Raises SchemaNewerError on another one,
    RetryableError if a lock is not free within `patience`, and as `Database.transaction` does.
    """
    engine = new_engine(url, session=_SESSION, poolclass=NullPool)
    with translated(), engine.connect() as lock:
        _take_turn(lock, patience)
        found = read_schema_version(lock)
        if found.state is SchemaState.NEWER:
            raise SchemaNewerError(f"database: {found}: {found.advice}")
        if found.state is SchemaState.OLDER:
            _apply(engine, patience)
        return read_schema_version(lock)


def _take_turn(lock: Connection, patience: timedelta) -> None:
    """Take the lock of migrations until the transaction of `lock` ends. A session's could outlive a pooler's client.

    Raises RetryableError, which names the holder, if it is not free within `patience`.
    """
    ends_at = time.monotonic() + patience.total_seconds()
    while not lock.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _LOCK_KEY}).scalar_one():
        holders = describe_holders(lock, _LOCK_KEY)
        if time.monotonic() >= ends_at:
            advice = "if that is no migration of yours, end it: SELECT pg_terminate_backend(pid)"
            raise RetryableError(f"migrate: the lock of migrations is held by {holders or 'nobody now'}; {advice}")
        lock.rollback()  # an index that the holder builds waits for each transaction that looked while it was built
        log.warning("migrate.waits_for_turn", held_by=holders)
        time.sleep(min(patience.total_seconds(), 1))


def _apply(engine: Engine, patience: timedelta) -> None:
    began_at, pause, held = time.monotonic(), _PAUSE, None
    while True:
        with engine.connect() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            now = read_schema_version(connection).held
            connection.rollback()
            if now != held:  # some migrations succeeded: the next one gets the whole time
                began_at, pause, held = time.monotonic(), _PAUSE, now
            with watched_blockers(engine, pid) as blockers:
                try:
                    command.upgrade(alembic_config(connection), "head")
                except exc.OperationalError as error:
                    if getattr(error.orig, "sqlstate", None) not in _IN_THE_WAY:
                        raise
                else:
                    return
        waited = time.monotonic() - began_at
        if waited > patience.total_seconds():
            line = (
                f"migrate: the migration after {held} got no lock within {waited:.0f} s; it waited for {blockers.seen}"
            )
            raise RetryableError(f"{line}. The migrations before it are done: run usage-tasks migrate again")
        log.warning("migrate.waits", after=held, blocked_by=blockers.seen)
        time.sleep(pause.total_seconds())
        pause = min(2 * pause, _PAUSE_MAX)
