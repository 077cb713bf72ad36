"""The broker's queues, read where kombu keeps them in Redis."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from usage_tasks.coordination.keyspace import key_of
from usage_tasks.telemetry.headers import PUBLISHED_AT


def list_key(client: "redis.Redis", queue: str) -> str:
    """Return the key of the list in Redis that is a queue: the broker's `global_keyprefix` is the client's prefix.

    Internal: as in `read_queues`.
    """
    return key_of(client, queue)


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
            pipe.llen(list_key(client, queue))
            pipe.lindex(list_key(client, queue), -1)
        pipe.hlen(key_of(client, "unacked"))
        *pairs, unacked = pipe.execute()
    states = [
        QueueState(queue=queue, depth=depth, oldest_published_at=_published_at(oldest))
        for queue, depth, oldest in zip(queues, pairs[::2], pairs[1::2], strict=True)
    ]
    return states, int(unacked)


def _published_at(message: bytes | None) -> float | None:
    try:
        headers: Any = json.loads(message or b"{}").get("headers", {})
        return float(headers[PUBLISHED_AT])
    except (KeyError, TypeError, ValueError):
        return None
