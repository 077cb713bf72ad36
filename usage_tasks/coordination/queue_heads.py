"""The oldest message of each queue, as a digest: the same one again and again shows that nobody takes it."""

from collections.abc import Sequence
from typing import Any, Final

import redis

from usage_tasks.coordination.celery_internals.queues import list_key

_READ: Final = """
    local heads = {}
    for number, key in ipairs(KEYS) do
        local head = redis.call('LINDEX', key, -1)
        heads[number] = head and redis.sha1hex(head) or ''
    end
    return heads
"""


def read_heads(client: "redis.Redis", queues: Sequence[str]) -> dict[str, str]:
    """Return a digest of the next message, by queue; no empty queues. Raises RedisError.

    A message carries its task's id, so no two are equal. Redis makes the digest: a message may be large.
    """
    if not queues:
        return {}
    found: Any = client.eval(_READ, len(queues), *(list_key(client, queue) for queue in queues))
    return {queue: head.decode() for queue, head in zip(queues, found, strict=True) if head}
