"""The broker's queues, read where kombu keeps them in Redis."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from usage_tasks.coordination.keyspace import key_of
from usage_tasks.telemetry.headers import PUBLISHED_AT

_TAKEN_MAX: Final = 100
_UNIX_SECONDS_MAX: Final = 1e11
"""The year 5138: a message that was sent later, or at no number, shows no age."""
_CELERYS_EXCHANGES: Final = ("celery.pidbox", "reply.celery.pidbox", "celeryev")
_BINDINGS: Final = ("binding", "binding_permanent")


def list_key(client: "redis.Redis", queue: str) -> str:
    """Return the key of the list in Redis that is a queue: the broker's `global_keyprefix` is the client's prefix.

    Internal: as in `read_queues`.
    """
    return key_of(client, queue)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """The number of waiting messages, and when the oldest was sent, in Unix seconds; None if its headers lack it."""

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


def list_queues_taken_from(client: "redis.Redis", *, since: float) -> frozenset[str]:
    """Return the queues of the messages that were taken since an instant, in Unix seconds, and not acknowledged.

    Of the latest 100 messages: there is about one for each process.
    Internal: as in `read_queues`; `unacked_index` orders the messages of `unacked` by when they were taken. Each is
    JSON: the message, its exchange, and its routing key, which is the name of its queue.
    """
    tags: Any = client.zrevrangebyscore(key_of(client, "unacked_index"), "+inf", since, start=0, num=_TAKEN_MAX)
    held: Any = client.hmget(key_of(client, "unacked"), tags) if tags else []
    return frozenset(queue for each in held if (queue := _routing_key(each)) is not None)


def _routing_key(entry: bytes | None) -> str | None:
    """Return the routing key of an entry of `unacked`; None if it is gone or cannot be read."""
    try:
        return str(json.loads(entry or b"")[2])
    except (LookupError, TypeError, ValueError, RecursionError):
        return None


def list_key_types(client: "redis.Redis", queues: Iterable[str]) -> Mapping[str, str]:
    """Return the type in Redis of each key that a worker of these queues cannot do without.

    Internal: as in `read_queues`; `unacked_index` is a sorted set. The sets of `_kombu.binding` list the queues of an
    exchange. Each queue has an exchange of its name; Celery has three of its own for its remote control.
    """
    names = list(queues)
    exchanges = [*names, *_CELERYS_EXCHANGES]
    bindings = [f"_kombu.{kind}.{exchange}" for kind in _BINDINGS for exchange in exchanges]
    types = dict.fromkeys(names, "list") | {"unacked": "hash", "unacked_index": "zset"} | dict.fromkeys(bindings, "set")
    return {key_of(client, name): kind for name, kind in types.items()}


def _published_at(message: bytes | None) -> float | None:
    """Return the time in the oldest message's headers, or None: any writer to the broker may have made them."""
    try:
        published_at: Any = json.loads(message or b"{}")["headers"][PUBLISHED_AT]
    except (LookupError, TypeError, ValueError, RecursionError):
        return None
    is_number = isinstance(published_at, int | float) and not isinstance(published_at, bool)
    return float(published_at) if is_number and abs(published_at) <= _UNIX_SECONDS_MAX else None
