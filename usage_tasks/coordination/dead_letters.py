"""Messages that killed their workers, set aside in Redis: listed and replayed by an operator.

They come from the broker and stay beside it: what must not be lost is a row somewhere, and a sweep finds it without
its message.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

import redis

REDELIVERIES_MAX: Final = 5
"""A message that was taken so often and never finished is not taken again."""

PARKED_MAX: Final = 10_000

_PARKED: Final = "usage:parked"
_TAKEN: Final = "usage:taken:"
_COUNTED_FOR: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedMessage:
    """A task as it was called, and why it is not called any more; `parked_at` is ISO 8601."""

    task_id: str
    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    reason: str
    parked_at: str


def park(client: "redis.Redis", message: ParkedMessage) -> bool:
    """Set a message aside; answer False where there are too many already."""
    if client.hlen(_PARKED) >= PARKED_MAX and not client.hexists(_PARKED, message.task_id):
        return False
    client.hset(_PARKED, message.task_id, json.dumps(asdict(message)))
    return True


def list_parked(client: "redis.Redis") -> list[ParkedMessage]:
    """Answer what is set aside, the oldest first."""
    held: Any = client.hvals(_PARKED)
    return sorted((ParkedMessage(**json.loads(each)) for each in held), key=lambda each: each.parked_at)


def count_parked(client: "redis.Redis") -> int:
    """Answer how many are set aside."""
    held: Any = client.hlen(_PARKED)
    return int(held)


def release(client: "redis.Redis", task_id: str) -> None:
    """Forget a message, and how often it was taken."""
    client.hdel(_PARKED, task_id)
    client.delete(_TAKEN + task_id)


def count_redelivery(client: "redis.Redis", task_id: str) -> int:
    """Count that a message was taken again whose worker had vanished; answer how often that has happened."""
    with client.pipeline() as pipe:
        pipe.incr(_TAKEN + task_id)
        pipe.expire(_TAKEN + task_id, _COUNTED_FOR)
        return int(pipe.execute()[0])
