"""A word that something is to be done, said once until somebody takes it up: a thousand events need no thousand tasks.

Whoever takes it up first forgets the word and then looks: what comes after the look says it again. A word that got
lost with its message is forgotten after a minute, when the sweep comes round anyway.
"""

from contextlib import suppress
from datetime import timedelta
from typing import Final

import redis

_KEY: Final = "usage:hint:"
_LEASE: Final = timedelta(minutes=1)


def is_first(client: "redis.Redis", name: str) -> bool:
    """Say the word; tell whether nobody else had. With Redis away everybody is the first."""
    try:
        return bool(client.set(_KEY + name, 1, nx=True, ex=_LEASE))
    except redis.RedisError:
        return True


def forget(client: "redis.Redis", name: str) -> None:
    """Forget the word, before looking what there is to do."""
    with suppress(redis.RedisError):
        client.delete(_KEY + name)
