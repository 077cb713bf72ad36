"""A client of Redis for the loop of a worker that takes messages: it waits a second at most, and tries twice.

The libraries' own retries, with their pauses, hold the loop for half a minute while Redis is away: no heartbeat is
written and no message is taken meanwhile.
"""

from functools import cache
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from usage_tasks.coordination.keyspace import open_redis
from usage_tasks.runtime import runtime

_SECONDS_MAX: Final = 1
_RETRIES: Final = 1
"""A connection that was idle may have been closed."""


@cache
def quick_redis() -> "redis.Redis":
    """Return this process's client with short waits."""
    return open_redis(
        runtime().settings,
        socket_timeout=_SECONDS_MAX,
        socket_connect_timeout=_SECONDS_MAX,
        retry=Retry(NoBackoff(), _RETRIES),
    )
