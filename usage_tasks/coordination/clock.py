"""The time: the database's, or a test clock's; every process of an installation shares it (docs/adr/0024).

A host's own clock serves time-outs only: it may be wrong by days, and what a wrong clock writes cannot be undone.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

import redis

from usage_tasks.coordination.keyspace import key_of
from usage_tasks.domain.errors import RetryableError

_KEY: Final = "test_clock"


class Clock(Protocol):
    """Tells billing time, aware and UTC. Leases and time-outs don't ask it: they are real time."""

    def now(self) -> datetime:
        """The present instant."""
        ...


class DatabaseClock:
    """The clock of the database that everything is written to; `read` asks it."""

    def __init__(self, read: Callable[[], datetime]) -> None:
        self._read = read

    def now(self) -> datetime:
        """See Clock. Raises RetryableError if the database is away."""
        return self._read().astimezone(UTC)


class TestClock:
    """A clock that stands still until it is advanced, kept in Redis; it never goes back."""

    __test__ = False  # no test class

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client
        self._key = key_of(client, _KEY)

    def now(self) -> datetime:
        """See Clock. Raises RetryableError while nobody has set the clock."""
        held = self._client.get(self._key)
        if not isinstance(held, bytes):
            raise RetryableError(f"test clock: {self._key} is not set in Redis")
        return datetime.fromisoformat(held.decode())

    def advance(self, to: datetime) -> datetime:
        """Move the clock forward to an instant, or leave it if it is later already; return its time."""
        held = self._client.get(self._key)
        if isinstance(held, bytes):
            to = max(to, datetime.fromisoformat(held.decode()))
        self._client.set(self._key, to.astimezone(UTC).isoformat())
        return to
