"""What waits in the broker's queues, read where kombu keeps them: a list a queue, a hash of what is being worked on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

PREFIX: Final = "usage:"
"""The broker's `global_keyprefix`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """How many messages wait, and when the oldest was sent, in Unix seconds; None where it does not say."""

    queue: str
    depth: int
    oldest_published_at: float | None


def read_queues(client: "redis.Redis", queues: Sequence[str]) -> tuple[list[QueueState], int]:
    """Answer the state of each queue, and how many messages are taken and not acknowledged, of all queues together."""
    with client.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.llen(PREFIX + queue)
            pipe.lindex(PREFIX + queue, -1)
        pipe.hlen(f"{PREFIX}unacked")
        *pairs, unacked = pipe.execute()
    states = [
        QueueState(queue=queue, depth=depth, oldest_published_at=_published_at(oldest))
        for queue, depth, oldest in zip(queues, pairs[::2], pairs[1::2], strict=True)
    ]
    return states, int(unacked)


def _published_at(message: bytes | None) -> float | None:
    try:
        headers: Any = json.loads(message or b"{}").get("headers", {})
        return float(headers["published_at"])
    except (KeyError, TypeError, ValueError):
        return None
