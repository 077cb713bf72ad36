"""Ticks: at most one waits of each task, however long no worker takes it and however many beats there are.

No message has an expiry: beat's clock and a worker's need not agree. Instead beat sets a flag in Redis
with each tick and sends no other one while the flag is set and the queue is not empty; the worker clears the flag when
it begins. An empty queue shows that the tick was taken or lost, and so the next one is sent. If a tick is lost from a
queue that is never empty, its flag expires. Source: docs/adr/0027.
"""

from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import redis

from usage_tasks.coordination.celery_internals.queues import list_key
from usage_tasks.coordination.keyspace import key_of

WAIT_MAX: Final = timedelta(minutes=10)
"""After this long another tick is sent, though one seems to wait."""

_KEY: Final = "tick:"

# A flag that would last longer than it was set for is of a Redis whose clock was set back since.
_MAY_SEND: Final = """
    local left = redis.call('PTTL', KEYS[1])
    if left > 0 and left <= tonumber(ARGV[1]) and redis.call('LLEN', KEYS[2]) > 0 then return 0 end
    redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
    return 1
"""


def may_send(client: "redis.Redis", task: str, *, queue: str) -> bool:
    """Return True if a tick must be sent, and set its flag. Without Redis always: the broker is away as well."""
    try:
        keys = [key_of(client, _KEY + task), list_key(client, queue)]
        answer: Any = client.eval(_MAY_SEND, len(keys), *keys, str(WAIT_MAX // timedelta(milliseconds=1)))
    except redis.RedisError:
        return True
    return bool(answer)


def note_begun(client: "redis.Redis", task: str) -> None:
    """Clear the flag: a worker has taken the tick."""
    with suppress(redis.RedisError):
        client.delete(key_of(client, _KEY + task))
