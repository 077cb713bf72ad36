"""The state of a worker's consumer: the messages that it holds, and the messages that it does not know."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from celery.worker import state
from celery.worker.consumer.tasks import Tasks
from kombu.transport import virtual

_READS_MAX: Final = 10


def find_unworked(consumer: Any) -> frozenset[str]:
    """Return the delivery tags of the messages that a worker holds unacknowledged and that no request accounts for.

    A request stands for its message while it waits for its ETA or for a token of its rate limit, is reserved, or runs.
    A tag may be without a request for an instant: between delivery and request, or between the end of a task and its
    acknowledgement. Only a tag that stays so is a lost acknowledgement. Empty where the transport keeps no such list
    (RabbitMQ counts by itself).

    Internal: `_delivered` and `_dirty` of kombu's `transport.virtual.QoS`, reached by `consumer.task_consumer.channel`;
    Celery's `worker.state.reserved_requests`, `active_requests` and `scheduled_requests`, and
    `consumer.task_buckets`; all 5.7. No public interface shows which messages a channel still holds.
    """
    qos = getattr(consumer.task_consumer.channel, "qos", None)
    if not isinstance(qos, virtual.QoS):
        return frozenset()
    held = set(qos._delivered or ()) - (qos._dirty or set())
    if not held:
        return frozenset()
    scheduled: Iterable[Any] = state.scheduled_requests  # type: ignore[attr-defined]  # newer than the stubs
    known = (state.reserved_requests, state.active_requests, scheduled, _rate_limited(consumer))
    return frozenset(held.difference(request.message.delivery_tag for each in known for request in _read(each)))


def list_active_requests() -> list[Any]:
    """Return the requests whose tasks have begun and not ended. Internal: `worker.state.active_requests`, 5.7."""
    return _read(state.active_requests)


def list_reserved_requests() -> list[Any]:
    """Return the requests that were given to the pool and have not ended. Internal: `reserved_requests`, as above."""
    return _read(state.reserved_requests)


def is_rate_limited(consumer: Any) -> bool:
    """Return True if messages wait in the worker for a rate limit. Internal: `consumer.task_buckets`, Celery 5.7."""
    return bool(_rate_limited(consumer))


def is_stopping() -> bool:
    """Return True once a signal, or a command, has asked the worker of this process to end.

    Internal: `worker.state.should_stop` and `should_terminate`, Celery 5.7: None or False, or an exit code, also 0.
    """
    return _is_set(state.should_stop) or is_stopping_cold()


def is_stopping_cold() -> bool:
    """Return True if the worker is to end without waiting for its tasks. Internal: as above."""
    return _is_set(state.should_terminate)


def give_back(consumer: Any) -> None:
    """Give every message that a worker holds back to its queue, as closing its channel does.

    Internal: `restore_unacked_once` of kombu's `transport.virtual.QoS`, 5.7. For a worker whose main thread waits.
    """
    qos = getattr(getattr(consumer.task_consumer, "channel", None), "qos", None)
    if isinstance(qos, virtual.QoS):
        qos.restore_unacked_once()


def take_unknown_tasks(consumer: Any, take: Callable[[Any, Callable[[], None]], None]) -> None:
    """Have `take(message, discard)` called for a message whose task this worker does not know.

    `discard` does what Celery does without it: it discards the message and stores a failure for its sender.
    Internal: `Consumer.on_unknown_task`, Celery 5.7, read when the event loop begins. The signal `task_unknown` comes
    only after the message was discarded.
    """
    discarding = type(consumer).on_unknown_task

    def on_unknown_task(body: Any, message: Any, error: Exception) -> None:
        take(message, lambda: discarding(consumer, body, message, error))

    consumer.on_unknown_task = on_unknown_task


def start_before_tasks(step: Any) -> None:
    """Let a step of the consumer start before it takes messages.

    Internal: `requires` of `celery.worker.consumer.tasks.Tasks`, Celery 5.7: the step that begins to take messages. A
    step of one's own can only ask to start after others.
    """
    others: tuple[Any, ...] = tuple(Tasks.requires or ())
    if step not in others:
        Tasks.requires = (*others, step)


def end_worker(exit_code: int) -> None:
    """Have the worker's loop begin a warm shutdown, with an exit code. Internal: `worker.state.should_stop`, 5.7."""
    setattr(state, "should_stop", exit_code)  # noqa: B010 - newer than the stubs


def _is_set(flag: Any) -> bool:
    return flag is not None and flag is not False


def _rate_limited(consumer: Any) -> list[Any]:
    buckets = [bucket for bucket in consumer.task_buckets.values() if bucket]
    return [request for bucket in buckets for request, _ in list(bucket.contents)]


def _read(requests: Iterable[Any]) -> list[Any]:
    for _ in range(_READS_MAX):
        try:
            return list(requests)
        except RuntimeError:  # a thread of the pool has changed the set meanwhile
            continue
    raise RuntimeError(f"the requests of this worker changed during {_READS_MAX} reads")
