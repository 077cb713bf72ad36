"""Where kombu and Celery read a message, and where each of them fails on one: nothing unreadable ends a worker.

kombu's channel raises on an item that is no envelope, after it has taken it off its queue. Celery's strategy and pool
raise on a call that is none, with the message unacknowledged: it goes back to its queue, and ends the next worker
(celery/celery#7975). A malformed entry of the list of the unacknowledged stops the restoring of all others.

Every place that reads is covered twice: a message is checked before (`envelope`, `calls`), and if it still raises, it
is handed to `Unread`. Errors of the broker are not the message's: they are raised as ever.
"""

import json
import sys
from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar, Final, Protocol

from celery.worker import state
from kombu.exceptions import OperationalError
from kombu.transport import redis as transport
from kombu.transport import virtual
from redis.exceptions import RedisError

from usage_tasks.coordination.celery_internals import is_known
from usage_tasks.coordination.celery_internals.calls import check_message
from usage_tasks.coordination.celery_internals.codecs import bound_decompression
from usage_tasks.coordination.celery_internals.envelope import (
    UnreadableError,
    check_envelope,
    find_headers,
    parse_json,
    read_envelope,
)

BROKER_ERRORS: Final = (RedisError, OSError, OperationalError)
_CLOCK_MAX: Final = 1 << 53


class Unread(Protocol):
    """Takes an unreadable message. `queue` is where an item was, "" for an entry of the unacknowledged."""

    def knows_queue(self, name: str) -> bool:
        """True if there is a queue of that name."""
        ...

    def take_item(self, queue: str, item: bytes, headers: object, reason: str) -> None:
        """Keep an item that was taken off its queue. Raises nothing: nobody else has it any more."""

    def take_entry(self, entry: bytes, reason: str) -> None:
        """Keep an entry of the list of the unacknowledged. Raises RedisError."""

    def take_message(self, consumer: Any, message: Any, payload: object, item: bytes, reason: str) -> None:
        """Keep a message that is unacknowledged, and acknowledge it; give it back if it cannot be kept.

        `payload` is the content of its body, or None if the body could not be read.
        """

    def drop_broadcast(self, reason: str) -> None:
        """Note that a remote-control message or an event was dropped: every worker got a copy, and none is work."""


def describe(error: BaseException) -> str:
    """Return a short text of an error; ours name the field already."""
    return str(error)[:500] if isinstance(error, UnreadableError) else f"{type(error).__name__}: {error}"[:500]


class GuardedMessage(virtual.Message):
    """A message that is made of any envelope: an error in its body is kept for its consumer, as kombu does elsewhere.

    `item`: the bytes that it was read from, until its handler has returned; None of a broadcast.
    """

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        self.item: bytes | None = getattr(channel, "item", None)
        try:
            super().__init__(payload, channel=channel, **options)
        except ValueError:
            self.errors = [sys.exc_info()]
            super().__init__({**payload, "body": None}, channel=channel, **options)


class GuardedQoS(transport.QoS):
    """Restores the unacknowledged entries; a malformed entry is kept elsewhere and stops no other."""

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002 - as kombu calls it
        """Give a message back to its queue."""
        channel: Any = self.channel
        with channel.conn_or_acquire(client) as connected:
            entry: Any = connected.hget(self.unacked_key, tag)
            try:
                if entry is not None:
                    self._check_entry(entry)
            except UnreadableError as error:
                self._keep_elsewhere(tag, bytes(entry or b""), describe(error))
            else:
                super().restore_by_tag(tag, connected, leftmost)

    def _check_entry(self, entry: bytes) -> None:
        parts = parse_json(entry)
        if not (isinstance(parts, list) and len(parts) == len(("message", "exchange", "routing_key"))):
            raise UnreadableError("entry: must be [message, exchange, routing key]")
        message, exchange, routing_key = parts
        check_envelope(message)
        if message.get("headers", {}) is None or message.get("properties", {}) is None:
            raise UnreadableError("entry: must have headers and properties")
        if not isinstance(exchange, str | None) or not isinstance(routing_key, str) or not routing_key:
            raise UnreadableError("entry: must have an exchange and a routing key")
        queues = self.channel._lookup(exchange or "", routing_key)
        if not queues or not all(map(GuardedChannel.unread.knows_queue, queues)):
            raise UnreadableError("entry: must lead to a queue")  # else it would be pushed to any key, a list or not

    def _keep_elsewhere(self, tag: Any, entry: bytes, reason: str) -> None:
        try:
            GuardedChannel.unread.take_entry(entry, reason)
        except RedisError:
            return  # it stays where it is until the next time
        indices: Any = self
        indices._remove_from_indices(tag).execute()


class GuardedChannel(transport.Channel):
    """Takes an item off a queue, and hands it on if it is an envelope.

    `item`: the bytes of the message that is being handed on; None of a broadcast.
    """

    Message = GuardedMessage
    QoS = GuardedQoS

    unread: ClassVar[Unread]
    item: bytes | None = None

    connection_errors: Any
    _queue_cycle: Any
    _flush_brpop_reauth: Callable[[], None]

    def _brpop_read(self, **options: Any) -> bool:
        """Take the answer of BRPOP, as kombu 5.7 does, but for an item that is unreadable."""
        try:
            try:
                answer = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            if not answer:
                raise Empty
            key, item = answer
            queue = key.decode(errors="replace").rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self._take(queue, item)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _take(self, queue: str, item: bytes) -> None:
        try:
            envelope = read_envelope(item, queue)
        except UnreadableError as error:
            self.unread.take_item(queue, item, find_headers(item), describe(error))
            return
        self.item = item
        try:
            self.connection._deliver(envelope, queue)
        finally:
            self.item = None

    def _receive_one(self, client: Any) -> Any:
        """Take a message of a subscription: remote control, or an event of another worker."""
        try:
            return super()._receive_one(client)  # type: ignore[misc]  # unknown to the stubs
        except (*BROKER_ERRORS, Empty):
            raise
        except Exception as error:
            self.unread.drop_broadcast(describe(error))
            raise Empty from error

    def _deliver_fanout_message(self, message: Any, exchange: str) -> bool:
        envelope = check_envelope(message)
        _check_clock((envelope.get("headers") or {}).get("clock") or 0)
        return bool(super()._deliver_fanout_message(message, exchange))  # type: ignore[misc]  # unknown to the stubs


def _check_clock(clock: object) -> None:
    if not (isinstance(clock, int) and 0 <= clock <= _CLOCK_MAX):
        raise UnreadableError("clock: must be a whole number of less than 2^53")  # ours would follow it for ever


def guard_clock(app: Any) -> None:
    """Have the logical clock of a worker follow no other beyond the bound: the body of an event has one too.

    A worker whose clock is beyond it is heard by nobody. Internal: `app.clock.adjust`, kombu's LamportClock, 5.7.
    """
    adjust = app.clock.adjust

    def adjust_within_bound(other: object) -> Any:
        _check_clock(other)
        return adjust(other)

    app.clock.adjust = adjust_within_bound


def guard_channel(unread: Unread, version: str = "") -> bool:
    """Have every channel of this process guarded; return True if this version of kombu is known.

    Internal: `Channel` of `kombu.transport.redis.Transport`, and of the channel `_brpop_read`, `_receive_one`,
    `_deliver_fanout_message`, `_lookup`, `_in_poll`, `_queue_cycle` and `_flush_brpop_reauth`; `QoS.restore_by_tag` and
    `_remove_from_indices`; kombu 5.7. Another series is left alone.
    """
    if not is_known("kombu", version):
        return False
    bound_decompression()
    GuardedChannel.unread = unread
    transport.Transport.Channel = GuardedChannel
    return True


def guard_consumer(consumer: Any, unread: Unread) -> None:
    """Have a consumer hand over each message that it cannot make a request of.

    Internal: `on_decode_error`, `on_invalid_task`, `on_unknown_message` and `create_task_handler` of
    `celery.worker.consumer.Consumer`, 5.7. They are read after the consumer's steps are made, and before it takes
    anything. By default they log the message and discard it.
    """
    make_handler = type(consumer).create_task_handler

    def refuse(message: Any, error: BaseException | None) -> None:
        reason = "the message names no task" if error is None else describe(error)
        if message.item is None:
            unread.drop_broadcast(reason)
        else:
            unread.take_message(consumer, message, message._decoded_cache, message.item, reason)

    def create_task_handler(*arguments: Any, **options: Any) -> Callable[[Any], None]:
        handle = make_handler(consumer, *arguments, **options)

        def on_task_received(message: Any) -> None:
            try:
                check_message(message)
                handle(message)
            except BROKER_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the message is to blame, and a task has not begun
                refuse(message, error)
            finally:
                message.item = None

        return on_task_received

    consumer.create_task_handler = create_task_handler
    consumer.on_decode_error = refuse
    consumer.on_invalid_task = lambda _body, message, error: refuse(message, error)
    consumer.on_unknown_message = lambda _body, message: refuse(message, None)


def guard_commands(consumer: Any, unread: Unread) -> None:
    """Have a worker outlive each command of remote control that its loop carries out later, such as `add_consumer`.

    Internal: `call_soon` of `celery.worker.consumer.Consumer`, 5.7, which nothing else calls.
    """
    call_soon = consumer.call_soon

    def call_soon_or_drop(command: Callable[..., object], *arguments: Any, **options: Any) -> Any:
        def carry_out() -> None:
            try:
                command(*arguments, **options)
            except BROKER_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001 - the loop would end, and the worker with it
                unread.drop_broadcast(f"remote control: {describe(error)}")

        return call_soon(carry_out)

    consumer.call_soon = call_soon_or_drop


def guard_pool(worker: Any, unread: Unread) -> None:
    """Have a worker hand over each message that its pool does not take, before its task begins.

    Internal: `WorkController._process_task`, which is called at once, when a child is free, or at a task's ETA; its
    `_quick_release`, which gives back what was acquired for the task; `worker.state.task_ready`; Celery 5.7.
    """
    process = worker._process_task

    def process_task(request: Any) -> None:
        try:
            process(request)
        except BROKER_ERRORS:
            raise
        except Exception as error:
            if request.time_start is not None:
                raise
            state.task_ready(request)
            if release := getattr(worker, "_quick_release", None):
                release()
            message = request.message
            item = message.item or json.dumps(message._raw).encode()
            unread.take_message(worker.consumer, message, message._decoded_cache, item, describe(error))

    worker._process_task = process_task
