"""One holder at a time of a job's name: a lock in Redis that is renewed while its holder lives.

It keeps others from trying. It does not keep them from writing: a holder that slept, or a Redis that was flushed, lets
two believe that they hold it. What does is the epoch in PostgreSQL (storage/operations/jobs.py, docs/adr/0018).
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

log = structlog.get_logger(__name__)

LEASE: Final = timedelta(seconds=30)
"""How long a lock outlives a holder that was killed. It is renewed three times in that time."""

_KEY: Final = "usage:lock:"


class Hold(Enum):
    """What came of asking for a lock."""

    HELD = "held"
    TAKEN = "taken"
    UNKNOWN = "unknown"  # Redis is away: nobody can tell, and the epoch alone decides


@contextmanager
def held(client: "redis.Redis", name: str, *, lease: timedelta = LEASE) -> Iterator[Hold]:
    """Take a lock for the block, without waiting; renew it until the block ends."""
    lock = Lock(client, _KEY + name, timeout=lease.total_seconds(), blocking=False, thread_local=False)
    try:
        hold = Hold.HELD if lock.acquire() else Hold.TAKEN
    except RedisError as error:
        log.warning("lock.unknown", job=name, reason=str(error))
        hold = Hold.UNKNOWN
    if hold is not Hold.HELD:
        yield hold
        return
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(lock, name, lease, ended), name=f"lock {name}", daemon=True)
    renewal.start()
    try:
        yield hold
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
