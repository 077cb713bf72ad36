"""Every process that runs tasks reads the clocks around it once a minute, after a task that was done."""

import time
from typing import Final

from redis.exceptions import RedisError

from usage_tasks.coordination.broker_clock import read_redis_clock
from usage_tasks.domain.errors import RetryableError
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.telemetry.clocks import CLOCKS

EVERY_SECONDS: Final = 60.0

_watched_at = -EVERY_SECONDS


def read_clocks(rt: Runtime) -> None:
    """Read the database's clock and Redis's. Raises RetryableError or RedisError if a server is away."""
    CLOCKS.ask("database", lambda: rt.database.read_clock().timestamp())
    CLOCKS.ask("redis", lambda: read_redis_clock(rt.redis))


def watch_clocks() -> None:
    """Read the clocks if a minute has passed, and log a wrong one. A server that is away is ignored here."""
    global _watched_at  # noqa: PLW0603 - one a process, as are the clocks
    now = time.monotonic()
    if now - _watched_at < EVERY_SECONDS:
        return
    _watched_at = now
    try:
        read_clocks(runtime())
    except (RetryableError, RedisError):
        return
    CLOCKS.report()
