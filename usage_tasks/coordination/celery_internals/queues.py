"""The broker's queues, read where kombu keeps them in Redis."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from usage_tasks.telemetry.headers import PUBLISHED_AT

PREFIX: Final = "usage:"
"""The broker's `global_keyprefix`."""

_TAKEN_MAX: Final = 100


def list_key(queue: str) -> str:
    """Return the key of the list in Redis that is a queue.

    Internal: as in `read_queues`.
    """
    return PREFIX + queue


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """The number of messages that wait, and when the oldest was sent, in Unix seconds; None if it does not say."""

    queue: str
    depth: int
    oldest_published_at: float | None


def read_queues(client: "redis.Redis", queues: Sequence[str]) -> tuple[list[QueueState], int]:
    """Return the state of each queue, and the number of messages of all queues that are taken and not acknowledged.

    Internal: the keys of kombu's Redis transport 5.7 with one priority step. A queue is a list of its name whose right
    end is the oldest message, JSON with `headers`; unacknowledged messages are the hash `unacked`. Asking kombu instead
    would take a channel, and shows no age.
    """
    with client.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.llen(list_key(queue))
            pipe.lindex(list_key(queue), -1)
        pipe.hlen(f"{PREFIX}unacked")
        *pairs, unacked = pipe.execute()
    states = [
        QueueState(queue=queue, depth=depth, oldest_published_at=_published_at(oldest))
        for queue, depth, oldest in zip(queues, pairs[::2], pairs[1::2], strict=True)
    ]
    return states, int(unacked)


def read_heads(client: "redis.Redis", queues: Sequence[str]) -> dict[str, bytes | None]:
    """Return the oldest message of each queue, None of an empty one.

    Internal: as in `read_queues`.
    """
    with client.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.lindex(list_key(queue), -1)
        return dict(zip(queues, pipe.execute(), strict=True))


def list_queues_taken_from(client: "redis.Redis", *, since: float) -> frozenset[str]:
    """Return the queues of the messages that were taken since an instant, in Unix seconds, and not acknowledged.

    Of the latest 100 messages: there is about one for each process.
    Internal: as in `read_queues`; `unacked_index` orders the messages of `unacked` by when they were taken. Each is
    JSON: the message, its exchange, and its routing key, which is the name of its queue.
    """
    tags: Any = client.zrevrangebyscore(f"{PREFIX}unacked_index", "+inf", since, start=0, num=_TAKEN_MAX)
    held: Any = client.hmget(f"{PREFIX}unacked", tags) if tags else []
    return frozenset(str(json.loads(each)[2]) for each in held if each is not None)


def _published_at(message: bytes | None) -> float | None:
    try:
        headers: Any = json.loads(message or b"{}").get("headers", {})
        return float(headers[PUBLISHED_AT])
    except (KeyError, TypeError, ValueError):
        return None
