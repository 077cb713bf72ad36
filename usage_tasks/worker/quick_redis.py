"""Clients of Redis for the loop of a worker that takes messages: they wait a second or two at most, and try twice.

The libraries' own retries, with their pauses, hold the loop for half a minute while Redis is away: no heartbeat is
written and no message is taken meanwhile.
"""

from functools import cache
from typing import Final

import redis
from redis.backoff import NoBackoff

from usage_tasks.coordination.keyspace import open_redis
from usage_tasks.coordination.redis_retry import DiscardingRetry
from usage_tasks.runtime import runtime

_SECONDS_MAX: Final = 1
_BROKER_SECONDS_MAX: Final = 2
"""As the broker's own connections have it (celeryconfig.py)."""

_RETRIES: Final = 1
"""A connection that was idle may have been closed."""


@cache
def quick_redis() -> "redis.Redis":
    """Return this process's client with short waits."""
    return _connect(_SECONDS_MAX)


@cache
def broker_redis() -> "redis.Redis":
    """Return this process's client that is as patient as the broker's connections are, to find out if they work."""
    return _connect(_BROKER_SECONDS_MAX)


def _connect(seconds_max: float) -> "redis.Redis":
    return open_redis(
        runtime().settings,
        socket_timeout=seconds_max,
        socket_connect_timeout=seconds_max,
        retry=DiscardingRetry(NoBackoff(), _RETRIES),
    )
