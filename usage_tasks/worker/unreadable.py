"""The worker's handling of a message that it cannot read: keep its bytes, answer its sender, take the next one.

Source: docs/adr/0030.
"""

from collections import deque
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from celery import bootsteps
from celery.exceptions import BackendStoreError, InvalidTaskError
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from usage_tasks.coordination.celery_internals.calls import awaits_answer, find_sender
from usage_tasks.coordination.celery_internals.malformed import (
    guard_channel,
    guard_clock,
    guard_commands,
    guard_consumer,
    guard_pool,
)
from usage_tasks.coordination.celery_internals.routing import list_queues
from usage_tasks.coordination.unreadable_messages import UnreadableMessage, keep_unreadable, make_unreadable
from usage_tasks.worker.quick_redis import quick_redis

log = structlog.get_logger(__name__)

_TRIED_AGAIN_AFTER_SECONDS: Final = 2
_HELD_MAX: Final = 100


class UnreadMessages:
    """Keeps what this worker could not read; one a process. `app` is that of the worker, once there is one."""

    def __init__(self) -> None:
        self.app: Any = None
        self._held: deque[UnreadableMessage] = deque()
        """What was taken off its queue while Redis could not keep it: nobody else has it."""

    def knows_queue(self, name: str) -> bool:
        """True if the worker's application has a queue of that name, whether this worker takes from it or not."""
        return name in list_queues(self.app)

    def take_item(self, queue: str, item: bytes, headers: object, reason: str) -> None:
        """Keep an item that was taken off its queue, now or, if Redis is away, later."""
        task_id, task = find_sender(headers, None)
        unreadable = make_unreadable(item, queue=queue, reason=reason, at=datetime.now(UTC), task_id=task_id, task=task)
        try:
            _keep(unreadable)
        except RedisError as error:
            log.warning("message.not_parked", queue=queue, reason=str(error))
            self._hold(unreadable)
            return
        self._answer(task_id, headers, reason)

    def take_entry(self, entry: bytes, reason: str) -> None:
        """Keep an entry of the list of the unacknowledged. Raises RedisError."""
        _keep(make_unreadable(entry, queue=None, reason=f"unacknowledged: {reason}", at=datetime.now(UTC)))

    def take_message(self, consumer: Any, message: Any, payload: object, item: bytes, reason: str) -> None:
        """Keep a message and acknowledge it. If Redis is away, it goes back to its queue."""
        task_id, task = find_sender(message.headers, payload)
        queue = message.delivery_info.get("routing_key")
        try:
            _keep(make_unreadable(item, queue=queue, reason=reason, at=datetime.now(UTC), task_id=task_id, task=task))
        except RedisError as error:
            log.warning("message.not_parked", queue=queue, reason=str(error))
            give_back = (log, (*consumer.connection_errors, RedisError), True)
            consumer.timer.call_after(_TRIED_AGAIN_AFTER_SECONDS, message.reject_log_error, give_back)
            return
        self._answer(task_id, message.headers, reason)
        if not message.acknowledged:
            message.ack_log_error(log, (*consumer.connection_errors, RedisError))

    def drop_broadcast(self, reason: str) -> None:
        """Note that a remote-control message or an event was dropped."""
        log.warning("broadcast.dropped", reason=reason)

    def keep_held(self) -> None:
        """Try again to keep what could not be kept."""
        while self._held:
            try:
                _keep(self._held[0])
            except RedisError:
                return
            self._held.popleft()

    def _hold(self, message: UnreadableMessage) -> None:
        self._held.append(message)
        if len(self._held) > _HELD_MAX:
            lost = self._held.popleft()
            log.error("message.lost", queue=lost.queue, length=lost.length, sha256=lost.sha256, reason=lost.reason)

    def _answer(self, task_id: str | None, headers: object, reason: str) -> None:
        """Give the refusal to a sender who waits for an answer."""
        if task_id is None or self.app is None or not awaits_answer(headers):
            return
        try:
            self.app.backend.mark_as_failure(task_id, InvalidTaskError(reason))
        except (RedisError, OperationalError, BackendStoreError) as error:
            log.warning("message.not_answered", task_id=task_id, reason=str(error))


UNREAD: Final = UnreadMessages()


class UnreadableStep(bootsteps.Step):
    """Guards a consumer when it is made: its other steps take its methods as they find them."""

    def __init__(self, consumer: Any, **_: object) -> None:
        guard_consumer(consumer, UNREAD)
        guard_commands(consumer, UNREAD)


def guard_worker(sender: Any = None, **_: object) -> None:
    """Guard a worker, its channels and its consumer; a receiver of the signal `worker_init`."""
    if sender is not None:
        UNREAD.app = sender.app
        guard_channel(UNREAD)
        guard_clock(sender.app)
        guard_pool(sender, UNREAD)
        sender.app.steps["consumer"].add(UnreadableStep)


def _keep(message: UnreadableMessage) -> None:
    gone = keep_unreadable(quick_redis(), message)
    known = {"queue": message.queue, "task": message.task, "task_id": message.task_id, "reason": message.reason}
    log.error("message.parked", message_id=message.message_id, length=message.length, **known)
    if gone:
        log.warning("message.oldest_dropped", messages=gone)
