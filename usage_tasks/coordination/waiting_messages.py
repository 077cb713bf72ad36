"""Waiting messages: no worker can do them, as a newer version sent them; kept in Redis until a worker can.

A hash lists them, small enough to be read often; a second one holds the messages, as large as they were in their
queues. There is no bound on their number, as there is none on a queue: a message that waits here has left its queue.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from typing import Any, Final

import redis

from usage_tasks.coordination.keyspace import key_of

_WAITING: Final = "waiting"
_MESSAGES: Final = "waiting:messages"
_CLAIMS: Final = "waiting:claimed:"
_LEASE: Final = timedelta(seconds=30)
_PAGE: Final = 100

_REMOVE: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingMessage:
    """A message in the list, without its arguments; instants are ISO 8601, aware.

    `refused_by`: the digests of the task's arguments in each version that has refused the message. `answer_awaited`:
    its sender did not ask for the result to be ignored. `waits_since`: the first time that a worker could not do it.
    """

    task_id: str
    task: str
    queue: str
    args: int
    kwargs: Sequence[str]
    reason: str
    refused_by: Sequence[str]
    answer_awaited: bool
    expires: str | None
    waits_since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """A message in the list and its text in Redis, another one each time that the message is kept."""

    message: WaitingMessage
    text: bytes


def keep_message(client: "redis.Redis", message: WaitingMessage, content: Mapping[str, Any]) -> None:
    """Store a message and the fields needed to send it again; it replaces an earlier state of the same message."""
    with client.pipeline() as pipe:
        pipe.hset(key_of(client, _MESSAGES), message.task_id, json.dumps(content))
        pipe.hset(key_of(client, _WAITING), message.task_id, json.dumps(asdict(message) | {"stored": uuid.uuid4().hex}))
        pipe.delete(key_of(client, _CLAIMS + message.task_id))
        pipe.execute()


def read_page(client: "redis.Redis", cursor: int) -> tuple[int, list[StoredEntry]]:
    """Return some of the list and the cursor of the next page, 0 after the last one. Begin with cursor 0."""
    found: Any = client.hscan(key_of(client, _WAITING), cursor=cursor, count=_PAGE)
    return int(found[0]), [_parse(text) for text in found[1].values()]


def list_waiting(client: "redis.Redis") -> list[WaitingMessage]:
    """Return all that wait, the oldest first."""
    found: Any = client.hvals(key_of(client, _WAITING))
    return sorted((_parse(text).message for text in found), key=lambda each: each.waits_since)


def find_waiting(client: "redis.Redis", task_id: str) -> StoredEntry | None:
    """Return a message that waits."""
    text: Any = client.hget(key_of(client, _WAITING), task_id)
    return None if text is None else _parse(text)


def count_waiting(client: "redis.Redis") -> int:
    """Return the number of messages that wait."""
    held: Any = client.hlen(key_of(client, _WAITING))
    return int(held)


def claim_message(client: "redis.Redis", task_id: str) -> dict[str, Any] | None:
    """Take a message for 30 s, to send it; return its content, or None if another process has taken it."""
    if not client.set(key_of(client, _CLAIMS + task_id), 1, nx=True, ex=_LEASE):
        return None
    content: Any = client.hget(key_of(client, _MESSAGES), task_id)
    return None if content is None else dict(json.loads(content))


def remove_message(client: "redis.Redis", entry: StoredEntry) -> None:
    """Remove a message, unless a worker has kept it again meanwhile."""
    keys = [key_of(client, _WAITING), key_of(client, _MESSAGES)]
    client.eval(_REMOVE, len(keys), *keys, entry.message.task_id, entry.text)
    client.delete(key_of(client, _CLAIMS + entry.message.task_id))


def _parse(text: bytes) -> StoredEntry:
    known = {each.name for each in fields(WaitingMessage)}
    stored: dict[str, Any] = json.loads(text)  # a newer version may have stored more
    message = WaitingMessage(**{name: value for name, value in stored.items() if name in known})
    return StoredEntry(message=message, text=text)
