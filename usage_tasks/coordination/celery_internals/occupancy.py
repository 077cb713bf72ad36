"""The pool of a worker: how many slots it has, the tasks that run in them, and the tasks that wait for one."""

from typing import Any, Final, NamedTuple

from celery.concurrency.solo import TaskPool

from usage_tasks.coordination.celery_internals.consumer import list_active_requests, list_reserved_requests

_VISIBILITY_SECONDS: Final = 3600
"""kombu's own default."""


class RunningTask(NamedTuple):
    """A task that a slot of the pool holds, and for how many seconds it may."""

    name: str
    limit_seconds: float


class Occupancy(NamedTuple):
    """A look at a pool. Tasks are known by the delivery tags of their messages: a retry has its task's id again."""

    slots: int
    running: dict[str, RunningTask]
    waiting: frozenset[str]

    @property
    def free(self) -> int:
        """The number of slots without a task."""
        return max(0, self.slots - len(self.running))


def read_occupancy(consumer: Any) -> Occupancy:
    """Return what the pool of a worker holds.

    Internal: `consumer.pool.num_processes`; `time_limits`, `task` and `message` of `celery.worker.request.Request`; all
    5.7. No public interface shows in the worker itself what `inspect` shows over the broker.
    """
    active, reserved = list_active_requests(), list_reserved_requests()
    running = {
        _tag(each): RunningTask(str(each.name), find_limit(consumer.app, each.task, each.time_limits))
        for each in active
    }
    waiting = frozenset(_tag(each) for each in reserved) - running.keys()
    return Occupancy(slots=int(consumer.pool.num_processes), running=running, waiting=waiting)


def find_limit(app: Any, task: Any, asked: Any) -> float:
    """Return for how many seconds a task may run; `asked` has the hard and the soft limit of its message, or None.

    A task without a limit may run until its message is handed out again: then a copy of it runs as well.
    """
    hard = asked[0] if isinstance(asked, (list, tuple)) and asked else None
    candidates: tuple[Any, ...] = (hard, getattr(task, "time_limit", None), app.conf.task_time_limit)
    limit = next((each for each in candidates if type(each) in (int, float) and each > 0), None)
    visible = (app.conf.broker_transport_options or {}).get("visibility_timeout", _VISIBILITY_SECONDS)
    return float(visible if limit is None else limit)


def is_alone(consumer: Any) -> bool:
    """Return True if tasks run in the very thread that takes messages: the pool `solo`."""
    return isinstance(consumer.pool, TaskPool)


def _tag(request: Any) -> str:
    return str(request.message.delivery_tag)
