"""Dead letters: messages that no worker takes any more, kept in Redis for an operator to list and replay.

Most killed their workers; others were refused to a waiting sender (docs/adr/0025).

They come from the broker and stay beside it. Losing one loses no work: the work is a row in a table, and a sweep finds
the row without the message.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from typing import Any, Final

import redis

from usage_tasks.coordination.keyspace import key_of

REDELIVERIES_MAX: Final = 5
"""A message that was redelivered more often than this, and never finished, becomes a dead letter."""

DEAD_LETTERS_MAX: Final = 10_000

_DEAD_LETTERS: Final = "parked"
_REDELIVERIES: Final = "taken:"
_COUNTED_FOR: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A task as it was called, and the reason why it is not called again; `parked_at` is ISO 8601."""

    task_id: str
    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    reason: str
    parked_at: str


def add_dead_letter(client: "redis.Redis", letter: DeadLetter) -> bool:
    """Set a message aside; return False if there are too many already."""
    key = key_of(client, _DEAD_LETTERS)
    if client.hlen(key) >= DEAD_LETTERS_MAX and not client.hexists(key, letter.task_id):
        return False
    client.hset(key, letter.task_id, json.dumps(asdict(letter)))
    return True


def list_dead_letters(client: "redis.Redis") -> list[DeadLetter]:
    """Return all dead letters, the oldest first."""
    held: Any = client.hvals(key_of(client, _DEAD_LETTERS))
    return sorted((_parse(each) for each in held), key=lambda each: each.parked_at)


def _parse(text: bytes) -> DeadLetter:
    known = {each.name for each in fields(DeadLetter)}
    stored: dict[str, Any] = json.loads(text)  # a newer version may have stored more
    return DeadLetter(**{name: value for name, value in stored.items() if name in known})


def count_dead_letters(client: "redis.Redis") -> int:
    """Return the number of dead letters."""
    held: Any = client.hlen(key_of(client, _DEAD_LETTERS))
    return int(held)


def remove_dead_letter(client: "redis.Redis", task_id: str) -> None:
    """Remove a dead letter and the count of its redeliveries."""
    client.hdel(key_of(client, _DEAD_LETTERS), task_id)
    client.delete(key_of(client, _REDELIVERIES + task_id))


def count_redelivery(client: "redis.Redis", task_id: str) -> int:
    """Count a redelivery after a worker vanished; return the number so far."""
    with client.pipeline() as pipe:
        pipe.incr(key_of(client, _REDELIVERIES + task_id))
        pipe.expire(key_of(client, _REDELIVERIES + task_id), _COUNTED_FOR)
        return int(pipe.execute()[0])


def forgive_redeliveries(client: "redis.Redis", task_ids: Iterable[str]) -> None:
    """Take one redelivery of each task off the count, before or after it is counted."""
    with client.pipeline() as pipe:
        for task_id in task_ids:
            pipe.decr(key_of(client, _REDELIVERIES + task_id))
            pipe.expire(key_of(client, _REDELIVERIES + task_id), _COUNTED_FOR)
        pipe.execute()


def forget_redeliveries(client: "redis.Redis", task_id: str) -> None:
    """Restart the count of a task's redeliveries."""
    client.delete(key_of(client, _REDELIVERIES + task_id))
