"""The one place that opens transactions and that turns driver errors into ours."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta

import psycopg
from sqlalchemy import Connection, create_engine, exc, text

from usage_tasks.domain.errors import InvariantError, RetryableError, UsageError

POOL_SIZE = 5
WORK_MEM = "64MB"  # a tick prices every running session at once: in memory, not in files
_RETRYABLE_SQLSTATES = frozenset({"40001", "40P01", "55P03", "57014"})  # serialization, deadlock, lock, cancelled
_RETRYABLE_CLASSES = frozenset({"08", "53", "57"})  # connection, resources, shutdown

Transaction = Callable[[], AbstractContextManager[Connection]]
"""Opens a transaction that commits at the end of its block: `Database.transaction`, for services that need several."""


class Database:
    """A pool of connections; `transaction()` is the only thing that commits.

    `statement_timeout` limits every statement and every idle transaction, so that a stuck worker frees its locks.
    """

    def __init__(self, url: str, *, statement_timeout: timedelta = timedelta(minutes=4)) -> None:
        milliseconds = int(statement_timeout.total_seconds() * 1000)
        self._engine = create_engine(
            url,
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_timeout=10,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": 5,
                "application_name": "usage-tasks",
                "options": f"-c timezone=UTC -c work_mem={WORK_MEM} -c jit=off -c statement_timeout={milliseconds} "
                f"-c idle_in_transaction_session_timeout={milliseconds} -c lock_timeout=30000",
            },
        )

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction; commit at the end, roll back on any error.

        Raises RetryableError where the database is busy or away, InvariantError where a constraint was broken.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except (exc.DBAPIError, psycopg.Error) as error:  # the driver's own: of a COPY
            raise translate(error) from error
        except exc.TimeoutError as error:
            raise RetryableError(f"database: no connection was free: {error}") from error

    def read_clock(self) -> datetime:
        """Return the server's present time, aware and UTC. Not inside a transaction: it takes a connection of its own.

        Raises RetryableError where the database is busy or away.
        """
        with self.transaction() as connection:
            now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now

    def dispose(self) -> None:
        """Close every connection that is not in use."""
        self._engine.dispose()


@contextmanager
def rehearsal(connection: Connection) -> Iterator[None]:
    """Undo at the end whatever is done inside: a dry run of the real statements. Sequences do not go back."""
    savepoint = connection.begin_nested()
    try:
        yield
    finally:
        savepoint.rollback()


def translate(error: exc.DBAPIError | psycopg.Error) -> UsageError:
    """Say in our words what the driver's error means."""
    driver_error = error.orig if isinstance(error, exc.DBAPIError) else error
    sqlstate = getattr(driver_error, "sqlstate", None)
    first_line = str(driver_error).strip().partition("\n")[0]
    if sqlstate is None:  # the server never said anything: a broken connection, or a value the driver can't send
        broken = isinstance(driver_error, psycopg.OperationalError | psycopg.InterfaceError)
        return (RetryableError if broken else InvariantError)(f"database: {first_line}")
    if sqlstate in _RETRYABLE_SQLSTATES or sqlstate[:2] in _RETRYABLE_CLASSES:
        return RetryableError(f"database: {sqlstate} {first_line}")
    return InvariantError(f"database: {sqlstate} {first_line}")
