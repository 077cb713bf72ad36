"""Find the migrations that read or rewrite a table under a lock that keeps writers out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, event, text

# A scan counts on an empty table too. A new table has no rows and no waiters: it is not among the earlier tables.
_TABLES: Final = """
    SELECT c.oid, c.relname, c.relfilenode FROM pg_class AS c
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'alembic_version'
"""
_LOCKED: Final = """
    SELECT DISTINCT relation FROM pg_locks
    WHERE pid = pg_backend_pid() AND granted AND locktype = 'relation'
      AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""
_SCANNED: Final = "SELECT relid FROM pg_stat_xact_user_tables WHERE seq_scan > 0"


# Otherwise the server counts the scans of several transactions together. They are counted from the end of this one.
_COUNT_ANEW: Final = "SELECT pg_stat_force_next_flush()"


class LongLocks:
    """The faults found: one line each."""

    def __init__(self, connection: Connection) -> None:
        self.found: list[str] = []
        self._before = _tables(connection)
        connection.execute(text(_COUNT_ANEW))
        connection.rollback()

    def look(self, connection: Connection) -> None:
        """Look at the transaction that is about to commit."""
        after = _tables(connection)
        locked = set(connection.scalars(text(_LOCKED)))
        scanned = set(connection.scalars(text(_SCANNED)))
        for oid, (name, file) in self._before.items():
            if oid in after and after[oid][1] != file:
                self.found.append(f"{name}: rewritten")
            elif oid in locked and oid in scanned:
                self.found.append(f"{name}: read under a lock that keeps writers out")
        connection.execute(text(_COUNT_ANEW))


def _tables(connection: Connection) -> dict[int, tuple[str, int]]:
    return {row.oid: (row.relname, row.relfilenode) for row in connection.execute(text(_TABLES))}


def _commits_itself(connection: Connection) -> bool:
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"


@contextmanager
def watched_locks(connection: Connection) -> Iterator[LongLocks]:
    """Look at each transaction of the connection before it commits, and at the statements outside transactions."""
    locks = LongLocks(connection)

    def on_commit(committing: Connection) -> None:
        if not _commits_itself(committing):
            locks.look(committing)

    def on_statement(executing: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        builds = statement.upper().lstrip().startswith(("CREATE INDEX", "CREATE UNIQUE INDEX", "REINDEX", "DROP INDEX"))
        if builds and _commits_itself(executing) and "CONCURRENTLY" not in statement.upper():
            locks.found.append(f"{statement.strip()}: not CONCURRENTLY")

    event.listen(connection.engine, "commit", on_commit)
    event.listen(connection.engine, "before_cursor_execute", on_statement)
    try:
        yield locks
    finally:
        event.remove(connection.engine, "commit", on_commit)
        event.remove(connection.engine, "before_cursor_execute", on_statement)
