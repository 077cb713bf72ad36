"""The broker's clock, by which all workers agree how long a message has been taken."""

import time
from collections.abc import Callable
from typing import Any, Final

import redis

ASK_AGAIN_SECONDS: Final = 5.0
"""The clock is read so often at most; between, this process's monotonic clock goes on."""


def read_redis_clock(client: "redis.Redis") -> float:
    """Return Unix seconds by Redis's clock. Raises RedisError if it is away."""
    answer: Any = client.time()
    return float(answer[0] + answer[1] / 1_000_000)


class BrokerClock:
    """Unix seconds by Redis's clock; by this host's until Redis has answered once."""

    def __init__(self, client: "Callable[[], redis.Redis]") -> None:
        self._client = client
        self._ahead = time.time() - time.monotonic()
        self._asked_at: float | None = None

    def __call__(self) -> float:
        """Return the time now. A Redis that does not answer changes nothing: its clock is taken to go on."""
        now = time.monotonic()
        if self._asked_at is None or now - self._asked_at >= ASK_AGAIN_SECONDS:
            self._asked_at = now
            try:
                shown = read_redis_clock(self._client())
            except redis.RedisError:
                return time.monotonic() + self._ahead
            self._ahead = shown - time.monotonic()
        return time.monotonic() + self._ahead
