"""The upkeep of a worker's loop: tasks that it cut short, messages of a newer version, time limits of ended tasks."""

import random
from functools import partial
from typing import Any, Final

from celery import bootsteps

from usage_tasks.coordination.celery_internals.consumer import list_active_requests, take_unknown_tasks
from usage_tasks.coordination.celery_internals.timer import forget_cancelled
from usage_tasks.worker.poison import forgive_interrupted
from usage_tasks.worker.requests import WatchedRequest
from usage_tasks.worker.unreadable import UNREAD
from usage_tasks.worker.waiting import WaitingRoom, take_unknown_task

_AFTER_SECONDS: Final = (1, 2)


class Upkeep(bootsteps.StartStopStep):
    """Works from the timer of the loop that takes messages; apart from the heartbeat, for that must stay light."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: object) -> None:  # noqa: ARG002 - as Celery calls it
        self._entry: Any = None
        self._waiting = WaitingRoom()

    def start(self, consumer: Any) -> None:
        """Begin, each time that the worker has connected."""
        take_unknown_tasks(consumer, partial(take_unknown_task, consumer))
        self._work(consumer)

    def _work(self, consumer: Any) -> None:
        # At odd times: at the same instant of each second, the broker would hand the message that this worker sends
        # again to the same idle worker, perhaps the older one, each time.
        self._entry = consumer.timer.call_after(random.uniform(*_AFTER_SECONDS), self._work, (consumer,))
        forget_cancelled(consumer.timer)
        forgive_interrupted()
        UNREAD.keep_held()
        self._waiting.look(consumer.app)

    def stop(self, consumer: Any) -> None:  # noqa: ARG002 - as Celery calls it
        """End, each time that the worker has lost its connection or must stop."""
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None
        # A supervisor may kill a worker that takes long to stop: its tasks are not to blame for that either.
        for request in list_active_requests():
            if isinstance(request, WatchedRequest):
                request.on_interrupted()
        forgive_interrupted()
        UNREAD.keep_held()

    def shutdown(self, consumer: Any) -> None:
        """End for good."""
        self.stop(consumer)


def add_upkeep(sender: Any = None, **_: object) -> None:
    """Add the upkeep to a worker; a receiver of the signal `worker_init`."""
    if sender is not None:
        sender.app.steps["consumer"].add(Upkeep)
