"""What time it is: the system's, or a test clock's that every process of an installation shares."""

from datetime import UTC, datetime
from typing import Final, Protocol

import redis

from usage_tasks.domain.errors import RetryableError

CLOCK_KEY: Final = "usage:test_clock"


class Clock(Protocol):
    """Tells billing time, aware and UTC. Leases and time-outs don't ask it: they are real time."""

    def now(self) -> datetime:
        """The present instant."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """See Clock."""
        return datetime.now(UTC)


class TestClock:
    """A clock that stands still until it is advanced, kept in Redis; it never goes back."""

    __test__ = False  # no test class

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client

    def now(self) -> datetime:
        """See Clock. Raises RetryableError while nobody has set the clock."""
        held = self._client.get(CLOCK_KEY)
        if not isinstance(held, bytes):
            raise RetryableError(f"test clock: {CLOCK_KEY} is not set in Redis")
        return datetime.fromisoformat(held.decode())

    def advance(self, to: datetime) -> datetime:
        """Move the clock forward to an instant, or leave it where it is further already; answer what it shows."""
        held = self._client.get(CLOCK_KEY)
        if isinstance(held, bytes):
            to = max(to, datetime.fromisoformat(held.decode()))
        self._client.set(CLOCK_KEY, to.astimezone(UTC).isoformat())
        return to
