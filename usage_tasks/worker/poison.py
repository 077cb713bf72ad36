"""Messages that kill their workers: bounded, then set aside as dead letters.

A task that kills its child is tried again as often as its policy says, then Celery gives it up in the parent process.
One that takes the whole worker along is redelivered by the broker; those are counted.
"""

from datetime import UTC, datetime
from typing import Any

import structlog
from billiard.exceptions import WorkerLostError
from celery import signals
from redis.exceptions import RedisError

from usage_tasks.coordination import dead_letters
from usage_tasks.coordination.dead_letters import REDELIVERIES_MAX, DeadLetter
from usage_tasks.domain.errors import PermanentError
from usage_tasks.runtime import runtime

log = structlog.get_logger(__name__)


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
        _set_aside(request, task, f"redelivered {taken} times, never finished")
        raise PoisonError(f"{task}: redelivered {taken} times, never finished; it is parked")


@signals.task_failure.connect
def _set_aside_lost(sender: Any = None, exception: BaseException | None = None, **_: object) -> None:
    """In the parent process: Celery has given up a task whose child was lost each time."""
    if isinstance(exception, WorkerLostError):
        _set_aside(sender.request, str(sender.name), f"{exception} ({sender.request.retries + 1} times)")


def _set_aside(request: Any, task: str, reason: str) -> None:
    letter = DeadLetter(
        task_id=request.id,
        task=task,
        args=list(request.args or ()),
        kwargs=dict(request.kwargs or {}),
        reason=reason,
        parked_at=datetime.now(UTC).isoformat(),
    )
    try:
        stored = dead_letters.add_dead_letter(runtime().redis, letter)
    except RedisError as error:
        stored, reason = False, f"{reason}; {error}"
    log.error("poison.parked" if stored else "poison.not_parked", task=task, task_id=request.id, reason=reason)
