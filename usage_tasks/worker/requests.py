"""The request of a task in its worker: our steps beside Celery's when a task is cut short or kept."""

from typing import Any

from celery import Task
from redis.exceptions import RedisError

from usage_tasks.coordination.celery_internals.request import InterruptibleRequest
from usage_tasks.worker.poison import INTERRUPTED, set_aside
from usage_tasks.worker.waiting import MessageWaits, keep_waiting


class WatchedRequest(InterruptibleRequest):
    """Keeps a message that waits for a newer version, and remembers that its worker cut a task short."""

    _interrupted = False

    def on_interrupted(self) -> None:
        """Remember, once, that the worker itself cuts this task short: its message kills nobody."""
        if not self._interrupted:
            self._interrupted = True
            INTERRUPTED.add(self.id)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:  # noqa: FBT001, FBT002 - as Celery calls it
        """Keep a message before it is acknowledged; if that fails now, it goes back to its queue."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, MessageWaits):
            try:
                if not keep_waiting(self.app, self.message, reason=str(error)):
                    set_aside(self.id, self.name, self.args, self.kwargs, str(error))
            except RedisError:
                self.reject(requeue=True)
        return super().on_failure(exc_info, send_failed_event, return_ok)


class WatchedTask(Task[Any, Any]):
    """A task whose request is watched."""

    Request = f"{WatchedRequest.__module__}:{WatchedRequest.__name__}"
