"""The request of a task in its worker: what our worker does beside Celery when a task is cut short."""

from typing import Any

from celery import Task

from usage_tasks.coordination.celery_internals.request import InterruptibleRequest
from usage_tasks.worker.poison import INTERRUPTED


class WatchedRequest(InterruptibleRequest):
    """Remembers that its worker cut a task short."""

    _interrupted = False

    def on_interrupted(self) -> None:
        """Remember, once, that the worker itself cuts this task short: its message kills nobody."""
        if not self._interrupted:
            self._interrupted = True
            INTERRUPTED.add(self.id)


class WatchedTask(Task[Any, Any]):
    """A task whose request is watched."""

    Request = f"{WatchedRequest.__module__}:{WatchedRequest.__name__}"
