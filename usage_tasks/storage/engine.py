"""The one place that opens transactions and that turns driver errors into ours; sqlstates.py has the table for it."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, assert_never

import psycopg
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, exc, make_url, text

from usage_tasks.domain.errors import ConnectionSettingsError, InvariantError, RetryableError, UsageError
from usage_tasks.storage.announced import note_committed, take_mark
from usage_tasks.storage.connecting import watch_connecting
from usage_tasks.storage.sqlstates import Rule, Treatment, find_rule, needs_new_connection

POOL_SIZE = 5
POOL_RECYCLE_SECONDS = 1800  # what a server keeps for a session grows with its age
WORK_MEM = "64MB"  # a tick prices every running session at once: in memory, not in files

# Both ends give up a peer that neither answers nor acknowledges for 11 to 12 seconds. The server's end frees the locks.
_KEEPALIVES: Final = {"keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3"}
_UNACKNOWLEDGED_MILLISECONDS: Final = "12000"
_CONNECTION: Final[Mapping[str, str]] = MappingProxyType(
    {
        "connect_timeout": "5",
        "application_name": "usage-tasks",
        "keepalives": "1",
        **_KEEPALIVES,
        "tcp_user_timeout": _UNACKNOWLEDGED_MILLISECONDS,
    }
)
"""libpq's options, unless the URL has others."""
_SESSION: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{f"tcp_{name}": value for name, value in _KEEPALIVES.items()},
        "tcp_user_timeout": _UNACKNOWLEDGED_MILLISECONDS,
        "work_mem": WORK_MEM,
        "jit": "off",
    }
)
"""The server's settings for a session, unless the URL's `options` have others."""

Transaction = Callable[[], AbstractContextManager[Connection]]
"""Opens a transaction that commits at the end of its block: `Database.transaction`, for services that need several."""


class Database:
    """A pool of connections; `transaction()` is the only thing that commits.

    `statement_timeout` limits every statement and every idle transaction, so that a stuck worker frees its locks.
    """

    def __init__(self, url: str, *, statement_timeout: timedelta = timedelta(minutes=4)) -> None:
        milliseconds = int(statement_timeout.total_seconds() * 1000)
        self._engine = new_engine(
            url,
            session={
                "timezone": "UTC",
                "statement_timeout": str(milliseconds),
                "idle_in_transaction_session_timeout": str(milliseconds),
                "lock_timeout": "30000",
            },
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=10,
            pool_pre_ping=True,
            pool_recycle=POOL_RECYCLE_SECONDS,
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction; commit at the end, roll back on any error.

        Raises RetryableError if the database is busy, away or read-only, ConnectionSettingsError if it does not accept
        the settings, InvariantError if a constraint refuses the change. An error whose SQLSTATE needs a new connection
        empties the pool.
        """
        with translated(), self._engine.begin() as connection:
            take_mark(connection)  # of a transaction that was rolled back
            try:
                yield connection
            except psycopg.Error as error:  # the driver's own, of a COPY: SQLAlchemy does not see it
                if _needs_new_connection(error):
                    connection.invalidate(error)
                raise
            announced = take_mark(connection)
        if announced:
            note_committed()

    def read_clock(self) -> datetime:
        """Return the server's present time, aware and UTC. Not inside a transaction: it takes a connection of its own.

        Raises RetryableError if the database is busy or away.
        """
        with translated(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now

    def dispose(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()


@contextmanager
def rehearsal(connection: Connection) -> Iterator[None]:
    """Undo at the end all that was done inside: a dry run of the real statements. Sequences do not go back."""
    savepoint = connection.begin_nested()
    try:
        yield
    finally:
        savepoint.rollback()


def new_engine(url: str, *, session: Mapping[str, str], **options: Any) -> Engine:
    """Make an engine that follows the table of SQLSTATEs, and shows no parameter in an error.

    `session` has settings of the server that hold for every session, and override the URL's. The URL's other options
    and settings (`options=-csearch_path=...`) hold too. Raises ConnectionSettingsError for a malformed URL.
    """
    try:
        target = make_url(url)
        ours = {name: value for name, value in _CONNECTION.items() if name not in target.query}
        arguments = ours | {"options": _session_options(target.query, session)}
        # No column is an hstore: looking for that type takes a third of an engine's first connection.
        engine = create_engine(target, hide_parameters=True, use_native_hstore=False, connect_args=arguments, **options)
    except (exc.ArgumentError, ValueError):
        # From nothing: the driver repeats what it took for a port, which may be a part of the password.
        advice = "must be postgresql://user:password@host:port/database, with %40 for @ and %2F for / in a password"
        raise ConnectionSettingsError(f"database.url or DATABASE_URL: {advice}") from None
    watch_connecting(engine)
    event.listen(engine, "handle_error", _on_driver_error)
    return engine


def _session_options(query: Mapping[str, object], session: Mapping[str, str]) -> str:
    """Join the settings of a session, of which the last one of a name holds.

    As for libpq, PGOPTIONS takes the place of the URL's `options` if there are none.
    """
    own = str(query.get("options") or os.environ.get("PGOPTIONS", ""))
    return f"{_as_options(_SESSION)} {own} {_as_options(session)}"


def _as_options(settings: Mapping[str, str]) -> str:
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def _on_driver_error(context: ExceptionContext) -> None:
    """Empty the pool after an error that needs a new connection; leave values out of the messages."""
    error = context.original_exception
    if not isinstance(error, psycopg.Error):
        return
    if _needs_new_connection(error):
        context.is_disconnect = True
    shown = _without_values(error)
    if shown is not None and context.sqlalchemy_exception is not None:
        name = f"{type(error).__module__}.{type(error).__name__}"
        context.sqlalchemy_exception.args = (f"({name}) {shown}",)


def _needs_new_connection(error: psycopg.Error) -> bool:
    rule = _find_rule(error)
    return rule is not None and needs_new_connection(rule)


def _find_rule(error: psycopg.Error) -> Rule | None:
    """Return the rule of an error of the server; None if the server sent none."""
    if error.sqlstate is None:
        return None
    return find_rule(error.sqlstate, source_function=error.diag.source_function)


def _without_values(error: psycopg.Error) -> str | None:
    """Cut a server's error to its first line, and return it: the detail and the context repeat values of the row."""
    shown = error.diag.message_primary
    if shown is not None:
        error.args = (shown,)
    return shown


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors of the driver and the pool in our words."""
    try:
        yield
    except (exc.DBAPIError, psycopg.Error) as error:
        if isinstance(error, psycopg.Error):
            _without_values(error)
        raise translate(error) from error
    except exc.TimeoutError as error:
        raise RetryableError(f"database: no connection was free: {error}") from error
    except exc.PendingRollbackError as error:  # the error before it took the connection away, and was caught
        raise RetryableError(f"database: the connection is gone: {error}") from error


def translate(error: exc.DBAPIError | psycopg.Error) -> UsageError:
    """Return the driver's error in our words."""
    driver_error = error.orig if isinstance(error, exc.DBAPIError) else error
    first_line = str(driver_error).strip().partition("\n")[0]
    rule = _find_rule(driver_error) if isinstance(driver_error, psycopg.Error) else None
    if rule is None:  # no server's error: a broken connection, or a value that the driver can't send
        broken = isinstance(driver_error, psycopg.OperationalError | psycopg.InterfaceError | psycopg.InternalError)
        return (RetryableError if broken else InvariantError)(f"database: {first_line}")
    words = f"{getattr(driver_error, 'sqlstate', None)} {first_line}"
    match rule.treatment:
        case Treatment.PERMANENT:
            return InvariantError(f"database: {words}")
        case Treatment.TRANSIENT | Treatment.RECONNECT:
            return RetryableError(f"database: {words} ({rule.reason})")
        case Treatment.SETTINGS:
            return ConnectionSettingsError(f"database.url or DATABASE_URL: {words} ({rule.reason})")
        case _:
            assert_never(rule.treatment)
