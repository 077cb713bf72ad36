"""The keys of an installation in Redis: they all begin with its prefix (`redis.prefix`), which its client carries."""

from typing import Any, Final

import redis

from usage_tasks.settings import Settings

DEFAULT_PREFIX: Final = "usage:"
"""The prefix of a client that was made without one."""

_ATTRIBUTE: Final = "usage_key_prefix"


def open_redis(settings: Settings, **options: Any) -> "redis.Redis":
    """Return a client of the installation's Redis; nothing is connected yet. `options` are those of redis-py."""
    return prefixed(redis.Redis.from_url(settings.redis_url, **options), settings.redis.prefix)


def prefixed(client: "redis.Redis", prefix: str) -> "redis.Redis":
    """Let a client carry the prefix of its keys; return the client."""
    setattr(client, _ATTRIBUTE, prefix)
    return client


def key_of(client: "redis.Redis", name: str) -> str:
    """Return the key in Redis of a name such as `lock:usage.reset`, in the installation of the client."""
    return f"{getattr(client, _ATTRIBUTE, DEFAULT_PREFIX)}{name}"
