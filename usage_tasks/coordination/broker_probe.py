"""A probe of the broker: it must take a write. Sent before a worker or a beat connects, and while it waits."""

import time
import uuid
from collections.abc import Callable, Iterable, MutableSequence
from datetime import timedelta
from typing import Any, Final

import redis
import structlog

from usage_tasks.coordination.celery_internals.queues import list_key, list_key_types
from usage_tasks.coordination.keyspace import key_of

log = structlog.get_logger(__name__)

PAUSE_SECONDS: Final = 0.5
REPEAT_SECONDS: Final = 60.0
"""A broker that refuses is logged once, and again so often."""

_PROBE: Final = "probe"
_PROBE_KEPT: Final = timedelta(seconds=10)
_ASIDE: Final = "wrong_type:"

# By the type again: another process may have moved the key meanwhile, and a queue be there now.
_MOVE: Final = """
    local found = redis.call('TYPE', KEYS[1]).ok
    if found == 'none' or found == ARGV[1] then return false end
    redis.call('RENAME', KEYS[1], KEYS[2])
    return found
"""


def find_refusal(client: "redis.Redis") -> redis.RedisError | None:
    """Write a key as a worker notes a message, in a transaction; return the answer if it is an error.

    Over a new connection each time: an old one may lead to a server that is no longer the primary.
    """
    client.connection_pool.disconnect(inuse_connections=False)
    try:
        with client.pipeline() as pipe:
            pipe.hset(key_of(client, _PROBE), "probe", 1)
            pipe.expire(key_of(client, _PROBE), _PROBE_KEPT)
            pipe.execute()
    except redis.RedisError as error:
        return error
    return None


def move_wrong_types_aside(client: "redis.Redis", queues: Iterable[str]) -> None:
    """Rename each key of the broker's that holds something else than the broker keeps there. Raises RedisError.

    The messages of an overwritten queue are lost; the sweeps find their work. A key that stays would keep a worker
    from its other queues too, and senders from this one.
    """
    types = list_key_types(client, queues)
    with client.pipeline(transaction=False) as pipe:
        for key in types:
            pipe.type(key)
        found: Any = pipe.execute()
    for (key, wanted), each in zip(types.items(), found, strict=True):
        if each.decode() in {wanted, "none"}:
            continue
        aside = key_of(client, f"{_ASIDE}{key}:{uuid.uuid4().hex}")
        if client.eval(_MOVE, 2, key, aside, wanted):
            log.error("broker.wrong_type", key=key, found=each.decode(), wanted=wanted, moved_to=aside)


def put_back(client: "redis.Redis", untaken: MutableSequence[tuple[str, str]]) -> None:
    """Put messages back to the end of their queues that is worked off next. Raises RedisError."""
    while untaken:
        queue, message = untaken[-1]
        client.rpush(list_key(client, queue), message)
        untaken.pop()


def await_broker(client: "redis.Redis", *, pause: Callable[[float], object], waits: Callable[[str], object]) -> None:
    """Wait until the broker takes a write. Log its answer once a minute; `waits` is called once.

    `pause` waits for so many seconds; `waits` takes the name of the error.
    """
    begun_at = time.monotonic()
    logged_at: float | None = None
    while (refusal := find_refusal(client)) is not None:
        if logged_at is None:
            waits(type(refusal).__name__)
        if logged_at is None or time.monotonic() - logged_at >= REPEAT_SECONDS:
            logged_at = time.monotonic()
            log.warning("broker.refuses", answer=type(refusal).__name__, reason=str(refusal))
        pause(PAUSE_SECONDS)
    if logged_at is not None:
        log.info("broker.accepts", waited_seconds=round(time.monotonic() - begun_at, 1))
