"""The request of a task that its own worker cuts short."""

from typing import Any

from celery.worker.request import Request


class InterruptibleRequest(Request):
    """A custom request, as Celery documents them, with a hook for the moment when the worker cuts its task short.

    Internal: `Request.cancel`, Celery 5.7, called for what runs after a lost connection and in a cold shutdown. For a
    task that is acknowledged late no signal is sent in a shutdown. `Request._already_cancelled`: Celery sets it only
    after it has written to the result backend, and a child that ends without it is acknowledged as revoked. If the
    connection that was lost is the backend's too, the message would be lost.
    """

    def on_interrupted(self) -> None:
        """Do what is to be done before the task is cut short. Called from a signal's handler: no I/O."""
        raise NotImplementedError

    def cancel(self, pool: Any, *arguments: Any, **options: Any) -> None:
        """Cut the task short. A thread runs on, and a copy of its message comes all the same."""
        self.on_interrupted()
        self._already_cancelled = bool(self.time_start)
        super().cancel(pool, *arguments, **options)
