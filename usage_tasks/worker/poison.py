"""Messages that kill their workers: bounded, then kept as dead letters.

A task that kills its child is tried again by its policy, then Celery gives it up in the parent process.
A task that takes the whole worker along is redelivered by the broker; these redeliveries are counted. A worker that
cuts a task short by itself, because it was stopped or lost its broker, takes its redelivery off the count: no number of
deployments parks a healthy task.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from billiard.exceptions import WorkerLostError
from celery import signals
from redis.exceptions import RedisError

from usage_tasks.coordination import dead_letters
from usage_tasks.coordination.dead_letters import REDELIVERIES_MAX, DeadLetter
from usage_tasks.domain.errors import PermanentError
from usage_tasks.runtime import runtime
from usage_tasks.worker.quick_redis import quick_redis

log = structlog.get_logger(__name__)

INTERRUPTED: Final[set[str]] = set()
"""The ids of the tasks that this worker has cut short and that are not taken off the count yet."""


class PoisonError(PermanentError):
    """A message was redelivered again and again, and never finished."""


def check_redelivery(request: Any, task: str) -> None:
    """Set a message aside and raise PoisonError if its workers vanished too often. A new message costs nothing."""
    if not (request.delivery_info or {}).get("redelivered"):
        return
    try:
        taken = dead_letters.count_redelivery(runtime().redis, request.id)
    except RedisError as error:
        log.warning("poison.not_counted", reason=str(error))
        return
    if taken > REDELIVERIES_MAX:
        reason = f"redelivered {taken} times, never finished"
        set_aside(request.id, task, request.args, request.kwargs, reason)
        raise PoisonError(f"{task}: redelivered {taken} times, never finished; it is parked")


def forgive_interrupted() -> None:
    """Take the tasks that this worker has cut short off the count; without Redis, the next time."""
    interrupted = set(INTERRUPTED)
    if not interrupted:
        return
    try:
        dead_letters.forgive_redeliveries(quick_redis(), interrupted)
    except RedisError as error:
        log.warning("poison.not_forgiven", reason=str(error))
        return
    INTERRUPTED.difference_update(interrupted)


def forget_redeliveries(request: Any) -> None:
    """Restart the count after an attempt that ended and is tried again: its message killed no worker."""
    if (request.delivery_info or {}).get("redelivered"):
        with suppress(RedisError):
            dead_letters.forget_redeliveries(runtime().redis, request.id)


@signals.task_failure.connect
def _set_aside_lost(sender: Any = None, exception: BaseException | None = None, **_: object) -> None:
    """In the parent process: Celery has given up a task whose child was lost each time."""
    if isinstance(exception, WorkerLostError):
        request = sender.request
        reason = f"{exception} ({request.retries + 1} times)"
        set_aside(request.id, str(sender.name), request.args, request.kwargs, reason)


def set_aside(
    task_id: str | None, task: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, reason: str
) -> None:
    """Make a message a dead letter, or log that it could not be stored."""
    letter = DeadLetter(
        task_id=str(task_id),
        task=task,
        args=list(args or ()),
        kwargs=dict(kwargs or {}),
        reason=reason,
        parked_at=datetime.now(UTC).isoformat(),
    )
    try:
        stored = dead_letters.add_dead_letter(runtime().redis, letter)
    except RedisError as error:
        stored, reason = False, f"{reason}; {error}"
    log.error("poison.parked" if stored else "poison.not_parked", task=task, task_id=task_id, reason=reason)
