"""Connect to PostgreSQL so that a refused connection has a SQLSTATE.

libpq reports why a connection failed in words only, and those of the server are in the server's language. But libpq can
trace the messages of the server, and the SQLSTATE is among them. So the first time that its words are met, a
refused connection is tried again with a trace.
"""

import os
import re
import select
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine, event

from usage_tasks.storage.silent_peer import WatchedConnection
from usage_tasks.storage.sqlstates import Treatment, find_rule

REFUSED: Final = "08004"
"""The SQLSTATE of a connection that fails because of its settings, for any cause."""

_ASK_SECONDS: Final = 5
_TRACE_BYTES_MAX: Final = 1 << 16
_KNOWN_MAX: Final = 64
_OF_SERVER: Final = re.compile(r":  ")
"""libpq puts two blanks behind the severity of a server's message, in every language; its own messages have none."""
_OPTION: Final = re.compile(r"^connection is bad: (?!connection to server|could not|.*\bout of memory)")
"""libpq refuses an option before it looks for the server."""
_UNKNOWN_HOST: Final = re.compile(rf"failed to resolve host .*\[Errno {socket.EAI_NONAME}\]")
_TLS: Final = re.compile(r"certificate|private key file|does not support SSL")
_ERROR_RESPONSE: Final = re.compile(
    rb'^B\t\d+\tErrorResponse\t S "[^"]*"(?: V "[^"]*")? C "([0-9A-Z]{5})"', re.MULTILINE
)

_known: dict[str, str] = {}
"""SQLSTATEs by the words of the server. Bounded: libpq never frees the stream of a trace (some kilobytes)."""


def watch_connecting(engine: Engine) -> None:
    """Make connections whose waits end (silent_peer), and errors of connecting that have a SQLSTATE if possible."""

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, options: dict[str, Any]) -> Any:
        try:
            return WatchedConnection.connect(*arguments, **options)
        except psycopg.Error as error:
            sqlstate = error.sqlstate or _find_sqlstate(error, options)
            if sqlstate is None:
                raise
            if find_rule(sqlstate).treatment is Treatment.PERMANENT:
                sqlstate = REFUSED  # there is no statement yet that could be wrong
            raise _with_state(str(error), sqlstate) from error
        except UnicodeError as error:  # a host whose name cannot be one
            raise _with_state(f"host: {error}", REFUSED) from error


def _with_state(words: str, sqlstate: str) -> psycopg.OperationalError:
    error = psycopg.OperationalError(words)
    error.sqlstate = sqlstate
    return error


def _find_sqlstate(error: psycopg.Error, options: Mapping[str, Any]) -> str | None:
    words = str(error)
    if isinstance(error, psycopg.ProgrammingError):  # unknown names of options
        return REFUSED
    if error.pgconn is not None and error.pgconn.needs_password:
        return "28P01"
    if _OF_SERVER.search(words):
        return _known.get(words) or _ask(words, options)
    if _OPTION.search(words) or _UNKNOWN_HOST.search(words) or _TLS.search(words):
        return REFUSED
    return None


def _ask(words: str, options: Mapping[str, Any]) -> str | None:
    """Connect again and return the SQLSTATE of the refusal; None if it is another one this time."""
    if sys.platform != "linux" or len(_known) >= _KNOWN_MAX:  # libpq's trace is for Linux only
        return None
    names = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    target = make_conninfo("", **{name: value for name, value in options.items() if name in names})
    message, trace = _trace(target)
    found = _ERROR_RESPONSE.findall(trace)
    if not found or message not in words:
        return None
    sqlstate: str = found[-1].decode()
    _known[words] = sqlstate
    return sqlstate


def _trace(target: str) -> tuple[str, bytes]:
    """Connect and return the error message and what libpq sent and received. In memory: a password may be in it."""
    stream = os.memfd_create("libpq")
    connection = pq.PGconn.connect_start(target.encode())
    try:
        connection.trace(stream)
        connection.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
        until = time.monotonic() + _ASK_SECONDS
        while connection.status != pq.ConnStatus.BAD and (left := until - time.monotonic()) > 0:
            polled = connection.connect_poll()
            if polled == pq.PollingStatus.READING:
                select.select([connection.socket], [], [], left)
            elif polled == pq.PollingStatus.WRITING:
                select.select([], [connection.socket], [], left)
            else:
                break
        connection.untrace()  # writes what is buffered
        message = connection.get_error_message() if connection.status == pq.ConnStatus.BAD else "(connected)"
        return message, os.pread(stream, _TRACE_BYTES_MAX, 0)
    finally:
        connection.finish()
        os.close(stream)
