"""Bound every wait for PostgreSQL, also behind a network that drops packets and reports nothing.

TCP alone does not notice a silent peer if a proxy in between goes on acknowledging. So when a statement has had no
answer for a while, the server is asked over a new connection whether it still works on it. A long statement goes on; a
connection whose session waits for its client, or has ended, is closed, and the session is ended to free its locks.
docs/adr/0028 has the reasons and the figures.
"""

import time
from collections.abc import Callable, Generator
from datetime import timedelta
from enum import Enum, auto
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import Row

ASK_AFTER_SECONDS = 5
"""Silence before the server is asked, and between two questions while it works."""
ASK_AGAIN_SECONDS = 1
"""The wait before the next question, after an answer other than that it works."""
ANSWER_SECONDS_MAX: Final = 3
"""For the connection of a question, and again for its answer."""
UNKNOWN_SECONDS_MAX = 270
"""Silence without any answer that the server works. Above the statement timeout: then the server has given up too."""

_TICK: Final = timedelta(milliseconds=100).total_seconds()
_BROKEN: Final = "08006"
_NOT_OF_A_QUESTION: Final = frozenset({"options", "connect_timeout", "application_name", "target_session_attrs"})
_ASK: Final = """
    SELECT pg_catalog.pg_backend_pid(), session.pid, session.state, session.wait_event_type
    FROM (SELECT) AS always LEFT JOIN pg_catalog.pg_stat_activity AS session ON session.pid = %(pid)s
"""
# A process id is given again: the session must be as old as the connection.
_END: Final = """
    SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
    WHERE pid = %(pid)s AND backend_start <= pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %(age)s)
"""

Value = TypeVar("Value")


class _Session(Enum):
    """The state of our session on the server, as a second connection sees it."""

    WORKS = auto()
    WAITS = auto()
    """For its client: the statement or its answer was lost."""
    GONE = auto()
    UNKNOWN = auto()
    """The server cannot be reached, or does not show the session."""


_FOUND: Final = {
    _Session.WAITS: "the server waits for this client",
    _Session.GONE: "the session has ended on the server",
}


class WatchedConnection(psycopg.Connection[Row]):
    """A connection whose every wait ends: with the answer, or with an OperationalError of SQLSTATE 08006."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connected_at = time.monotonic()

    def wait(self, gen: PQGen[Value], interval: Any = _TICK, timeout: Any = None) -> Value:
        """Wait as psycopg does; raise if the connection turns out to lead nowhere."""
        silence = _Silence(self)
        return super().wait(_observed(gen, heard=silence.end, nothing=silence.check), interval, timeout)

    def ask(self, *, end: bool) -> _Session:
        """Ask the server about this connection's session; with `end`, end a session that waits for its client."""
        pid = self.pgconn.backend_pid
        try:
            with _Question.connect(**self._address()) as question:
                known = {"pid": pid, "age": time.monotonic() - self._connected_at}
                (row,) = question.execute(_ASK, known, prepare=False)
                found = _session(question.pgconn.backend_pid, row)
                if found is _Session.WAITS and end:
                    question.execute(_END, known, prepare=False)
                return found
        except psycopg.Error:
            return _Session.UNKNOWN

    def _address(self) -> dict[str, Any]:
        """The parameters of a connection to the very server that this one leads to."""
        held = {each.keyword.decode(): each.val.decode() for each in self.pgconn.info if each.val is not None}
        known = {name: value for name, value in held.items() if name not in _NOT_OF_A_QUESTION}
        if address := self.pgconn.hostaddr:
            known["hostaddr"] = address.decode()
        return known | {
            "port": self.pgconn.port.decode(),
            "connect_timeout": ANSWER_SECONDS_MAX,
            "application_name": "usage-tasks asks",
            "autocommit": True,
        }


def _session(expected: int, row: tuple[int, int | None, str | None, str | None]) -> _Session:
    """Read the row of a question, whose own process id is `expected`."""
    own_pid, pid, state, waits_for = row
    if own_pid != expected:  # a pooler in between: the process id that it gave us is none of the server's
        return _Session.UNKNOWN
    if pid is None:
        return _Session.GONE
    if state is None or state == "disabled":
        return _Session.UNKNOWN
    # An active session can wait for its client too: for the rows of a COPY, or for the client to read.
    return _Session.WORKS if state in {"active", "fastpath function call"} and waits_for != "Client" else _Session.WAITS


class _Silence:
    """The time for which one wait has heard nothing."""

    def __init__(self, connection: WatchedConnection[Any]) -> None:
        self._connection = connection
        self.end()

    def end(self) -> None:
        """Begin again: something came, or could be sent."""
        self._began_at = self._known_at = time.monotonic()
        self._ask_at = self._began_at + ASK_AFTER_SECONDS
        self._suspected = False

    def check(self) -> None:
        """Ask if it is time to; close the connection and raise if it is lost.

        Lost are two answers in a row that the server does not work for it: what is under way arrives in between.
        """
        if time.monotonic() < self._ask_at:
            return
        found = self._connection.ask(end=self._suspected)
        now = time.monotonic()
        self._ask_at = now + (ASK_AFTER_SECONDS if found is _Session.WORKS else ASK_AGAIN_SECONDS)
        if found is _Session.WORKS:
            self._known_at, self._suspected = now, False
        elif found is _Session.UNKNOWN:
            if now - self._known_at > UNKNOWN_SECONDS_MAX:
                self._give_up(now, "nor could the server be asked")
        elif self._suspected:
            self._give_up(now, _FOUND[found])
        else:
            self._suspected = True

    def _give_up(self, now: Any, why: str) -> None:
        self._connection.close()
        error = psycopg.OperationalError(f"no answer for {now - self._began_at:.0f} s: {why}")
        error.sqlstate = _BROKEN
        raise error


class _Question(psycopg.Connection[Any]):
    """A short connection whose waits end after ANSWER_SECONDS_MAX."""

    def wait(self, gen: PQGen[Value], interval: Any = _TICK, timeout: Any = None) -> Value:
        return super().wait(gen, interval, ANSWER_SECONDS_MAX if timeout is None else timeout)


def _observed(
    gen: PQGen[Value], *, heard: Callable[[], None], nothing: Callable[[], None]
) -> Generator[Any, Any, Value]:
    """Pass a wait of the driver through: call `heard` when its socket was ready, `nothing` on each tick without."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready:
                heard()
            else:
                nothing()
            wanted = gen.send(ready)
    except StopIteration as end:
        value: Value = end.value
        return value
