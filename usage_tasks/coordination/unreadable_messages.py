"""Unreadable messages: no worker could begin with them; kept in Redis with their bytes (docs/adr/0030).

A hash holds them, a sorted set their order. Only so many are kept, and the oldest make room: a faulty
sender may send many, and a kept message takes no effect.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final

import redis

from usage_tasks.coordination.keyspace import key_of

KEPT_MAX: Final = 1_000
KEPT_BYTES_MAX: Final = 64 << 10
"""How much of a message is kept: the rest is known by its length and its digest."""

_MESSAGES: Final = "unreadable"
_ORDER: Final = "unreadable:order"

_KEEP: Final = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
local gone = redis.call('ZRANGE', KEYS[2], 0, -1 - tonumber(ARGV[4]))
for _, id in ipairs(gone) do
    redis.call('HDEL', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
end
return #gone
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableMessage:
    """A message that could not be read; `parked_at` is ISO 8601, aware.

    `message_id`: made from its bytes, so that the same bytes are kept once. `queue`: where it was, or None if it was
    in no queue. `task_id` and `task`: its own claim, as far as that is usable. `length`: of the whole message,
    in bytes. `sha256`: of the whole message. `content`: its first 64 kB, as a text or, where it is none, in base64.
    """

    message_id: str
    queue: str | None
    task_id: str | None
    task: str | None
    reason: str
    parked_at: str
    length: int
    sha256: str
    content: str
    content_is_base64: bool

    def read_content(self) -> bytes:
        """Return the bytes that were kept."""
        return base64.b64decode(self.content) if self.content_is_base64 else self.content.encode()

    @property
    def is_whole(self) -> bool:
        """True if all its bytes were kept."""
        return len(self.read_content()) == self.length


def make_unreadable(
    item: bytes, *, queue: str | None, reason: str, at: datetime, task_id: str | None = None, task: str | None = None
) -> UnreadableMessage:
    """Return the part of a message that is kept."""
    digest, kept = hashlib.sha256(item).hexdigest(), item[:KEPT_BYTES_MAX]
    try:
        content, is_base64 = kept.decode(), False
    except UnicodeDecodeError:
        content, is_base64 = base64.b64encode(kept).decode(), True
    return UnreadableMessage(
        message_id=f"unreadable-{digest[:32]}",
        queue=queue,
        task_id=task_id,
        task=task,
        reason=reason,
        parked_at=at.isoformat(),
        length=len(item),
        sha256=digest,
        content=content,
        content_is_base64=is_base64,
    )


def keep_unreadable(client: "redis.Redis", message: UnreadableMessage) -> int:
    """Keep a message; return the number of the oldest that made room for it."""
    at = datetime.fromisoformat(message.parked_at).timestamp()
    stored = json.dumps(asdict(message))
    gone: Any = client.eval(
        _KEEP, 2, key_of(client, _MESSAGES), key_of(client, _ORDER), message.message_id, stored, str(at), str(KEPT_MAX)
    )
    return int(gone)


def list_unreadable(client: "redis.Redis") -> list[UnreadableMessage]:
    """Return all that are kept, the oldest first."""
    found: Any = client.hvals(key_of(client, _MESSAGES))
    return sorted((_parse(text) for text in found), key=lambda each: each.parked_at)


def find_unreadable(client: "redis.Redis", message_id: str) -> UnreadableMessage | None:
    """Return a message that is kept."""
    text: Any = client.hget(key_of(client, _MESSAGES), message_id)
    return None if text is None else _parse(text)


def count_unreadable(client: "redis.Redis") -> int:
    """Return the number of messages that are kept."""
    held: Any = client.hlen(key_of(client, _MESSAGES))
    return int(held)


def remove_unreadable(client: "redis.Redis", message_id: str) -> None:
    """Remove a message."""
    with client.pipeline() as pipe:
        pipe.hdel(key_of(client, _MESSAGES), message_id)
        pipe.zrem(key_of(client, _ORDER), message_id)
        pipe.execute()


def _parse(text: bytes) -> UnreadableMessage:
    known = {each.name for each in fields(UnreadableMessage)}
    stored: Mapping[str, Any] = json.loads(text)  # a newer version may have stored more
    return UnreadableMessage(**{name: value for name, value in stored.items() if name in known})
