"""Whether transactions of this process have stored announcements that nobody has asked to send.

It is noted for the process, not for a task, since a service also writes from threads of its own: the next task that
ends asks for all of them. A transaction that is rolled back notes nothing.
"""

from threading import Event
from typing import Final

from sqlalchemy import Connection

_STORES: Final = "INTO outbox"
"""The text by which a statement is known that stores announcements."""

_KEY: Final = "announced"
_committed = Event()


def mark_if_announcing(connection: Connection, statement: str) -> None:
    """Mark a connection if a statement that was executed on it may have stored announcements."""
    if _STORES in statement:
        connection.info[_KEY] = True


def take_mark(connection: Connection) -> bool:
    """Return True if a connection is marked; remove the mark, which outlives a rollback."""
    return connection.info.pop(_KEY, None) is not None


def note_committed() -> None:
    """Note that announcements are stored. Only after the commit: whoever asks must find them."""
    _committed.set()


def take_committed() -> bool:
    """Return True, once, if announcements may have been stored since the last call."""
    if not _committed.is_set():
        return False
    _committed.clear()
    return True
