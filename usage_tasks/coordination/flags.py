"""Flags: keys in Redis that hold for a while, such as a lock, or the mark that a task is enqueued."""

from datetime import timedelta
from typing import Any, Final

import redis

_FORGET: Final = """
    if redis.call('PTTL', KEYS[1]) <= tonumber(ARGV[1]) then return 0 end
    return redis.call('DEL', KEYS[1])
"""


def forget_overlong(client: "redis.Redis", key: str, *, lease: timedelta) -> bool:
    """Delete a key that would last longer than it can have been set for; return True if it was one.

    A key ends at an instant of Redis's clock. If that is set back, the key lasts so much longer. Raises RedisError.
    """
    answer: Any = client.eval(_FORGET, 1, key, str(lease // timedelta(milliseconds=1)))
    return bool(answer)
