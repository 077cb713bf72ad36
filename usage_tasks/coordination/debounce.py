"""Debounce: one task for many events that ask for the same work.

The first caller sets a flag in Redis and enqueues the task; others see the flag and do nothing. The task clears the
flag before it looks for work, so that an event after the look enqueues a task again. If the message is lost, the flag
expires after a minute, when the sweep runs anyway.
"""

from contextlib import suppress
from datetime import timedelta
from typing import Final

import redis

from usage_tasks.coordination.flags import forget_overlong
from usage_tasks.coordination.keyspace import key_of

_KEY: Final = "hint:"
_LEASE: Final = timedelta(minutes=1)


def is_first(client: "redis.Redis", name: str) -> bool:
    """Set the flag of this name; return True if it was not set before. Without Redis every caller is the first."""
    key = key_of(client, _KEY + name)
    try:
        return bool(
            client.set(key, 1, nx=True, ex=_LEASE)
            or (forget_overlong(client, key, lease=_LEASE) and client.set(key, 1, nx=True, ex=_LEASE))
        )
    except redis.RedisError:
        return True


def clear(client: "redis.Redis", name: str) -> None:
    """Clear the flag of this name. The task calls this before it looks for work."""
    with suppress(redis.RedisError):
        client.delete(key_of(client, _KEY + name))
