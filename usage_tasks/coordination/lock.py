"""A lock for each job's name in Redis, with one holder at a time, renewed while the holder lives.

It keeps others from trying. It does not keep them from writing: after a holder slept, or Redis was flushed, two may
believe that they hold it. The epoch in PostgreSQL keeps them from writing (storage/operations/jobs.py, docs/adr/0018).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import Enum
from typing import Final

import redis
import structlog
from redis.exceptions import LockError, RedisError
from redis.lock import Lock

from usage_tasks.coordination.flags import forget_overlong
from usage_tasks.coordination.keyspace import key_of

log = structlog.get_logger(__name__)

LEASE: Final = timedelta(seconds=30)
"""How long a lock outlives a holder that was killed. It is renewed three times in that time.

A lock that would last longer is of a Redis whose clock was set back since. It is taken: if its holder lives, the epoch
keeps it from writing.
"""

_KEY: Final = "lock:"


class LockState(Enum):
    """The outcome of asking for a lock."""

    HELD = "held"
    TAKEN = "taken"
    UNKNOWN = "unknown"  # Redis is away: the epoch alone decides


@contextmanager
def held(client: "redis.Redis", name: str, *, lease: timedelta = LEASE) -> Iterator[LockState]:
    """Take a lock for the block, without waiting; renew it until the block ends."""
    key = key_of(client, _KEY + name)
    lock = Lock(client, key, timeout=lease.total_seconds(), blocking=False, thread_local=False)
    try:
        taken = lock.acquire() or (forget_overlong(client, key, lease=max(lease, LEASE)) and lock.acquire())
        state = LockState.HELD if taken else LockState.TAKEN
    except RedisError as error:
        log.warning("lock.unknown", job=name, reason=str(error))
        state = LockState.UNKNOWN
    if state is not LockState.HELD:
        yield state
        return
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(lock, name, lease, ended), name=f"lock {name}", daemon=True)
    renewal.start()
    try:
        yield state
    finally:
        ended.set()
        renewal.join()
        with suppress(LockError, RedisError):  # lost, or Redis is away: it ends by itself
            lock.release()


def _renew(lock: Lock, name: str, lease: timedelta, ended: threading.Event) -> None:
    while not ended.wait(lease.total_seconds() / 3):
        try:
            lock.reacquire()
        except LockError:
            log.warning("lock.lost", job=name)
            return
        except RedisError as error:
            log.warning("lock.not_renewed", job=name, reason=str(error))
