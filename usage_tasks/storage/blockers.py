"""Find the sessions that a migration waits for, to name them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import psycopg
from sqlalchemy import Connection, Engine, exc, text

POLL: Final = timedelta(milliseconds=200)
_SHOWN_MAX: Final = 5

_SESSION: Final = """
    concat('pid ', a.pid, ' (', coalesce(nullif(a.application_name, ''), a.backend_type),
           ', ', a.usename, '@' || host(a.client_addr), ', ', a.state, ' since ',
           date_trunc('second', clock_timestamp() - a.state_change), ', transaction open for ',
           coalesce(date_trunc('second', clock_timestamp() - a.xact_start)::text, 'none'), ')')
"""
_BLOCKING: Final = f"""
    SELECT {_SESSION} FROM pg_stat_activity AS a WHERE a.pid = ANY(pg_blocking_pids(:pid)) ORDER BY a.xact_start
"""
_HOLDING: Final = f"""
    SELECT {_SESSION} FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid::bigint << 32) + l.objid::bigint = :key
"""


def describe_holders(connection: Connection, key: int) -> str:
    """Name the sessions that hold the advisory lock `key`."""
    return _join(connection.execute(text(_HOLDING), {"key": key}).scalars())


class Blockers:
    """The sessions that were last seen to block another one."""

    def __init__(self) -> None:
        self.seen = ""

    def look(self, connection: Connection, pid: int) -> None:
        """Look once; keep what was seen before if nobody blocks now."""
        self.seen = _join(connection.execute(text(_BLOCKING), {"pid": pid}).scalars()) or self.seen


@contextmanager
def watched_blockers(engine: Engine, pid: int) -> Iterator[Blockers]:
    """Look over a second connection, as long as the block lasts, which sessions block the session `pid`."""
    blockers, ended = Blockers(), threading.Event()

    def watch() -> None:
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                while not ended.wait(POLL.total_seconds()):
                    blockers.look(connection, pid)
        except (exc.DBAPIError, psycopg.Error):  # the migration itself meets it too
            return

    thread = threading.Thread(target=watch, name="blockers", daemon=True)
    thread.start()
    try:
        yield blockers
    finally:
        ended.set()
        thread.join()


def _join(sessions: Iterator[str]) -> str:
    return "; ".join(list(sessions)[:_SHOWN_MAX])
