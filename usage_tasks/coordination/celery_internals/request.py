"""The request of a task as a worker takes it up: its times, by no sender's clock, and its end, when it is cut short."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from celery.worker.request import Request

from usage_tasks.telemetry.headers import PUBLISHED_AT

_TICK_OF_BEAT: Final = "celery_beat_task"


class SkewedRequest(Request):
    """A request of a sender whose clock may show another time than ours.

    A retry's ETA is an instant by its sender's clock, and so is `published_at`: their difference is how long it is to
    wait, by any clock. A tick of beat does not expire, even if a beat of an earlier version set a time.

    Internal: `_eta` and `_expires` of `celery.worker.request.Request`, and beat's header `celery_beat_task`; Celery
    5.7. The attribute `Request` of a task, by which Celery takes this class, is documented.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        eta: datetime | None = self.eta
        if eta is not None:
            self._eta = _from_now(eta, self.request_dict.get(PUBLISHED_AT))
        if self.request_dict.get(_TICK_OF_BEAT):
            self._expires = None


def _from_now(eta: datetime, published_at: object) -> datetime:
    """Return when a wait that a sender's clock measured is over by ours; the ETA as it is if that cannot be known."""
    if not isinstance(published_at, int | float):
        return eta
    try:
        return datetime.now(UTC) + timedelta(seconds=max(0.0, eta.timestamp() - published_at))
    except (OverflowError, ValueError):
        return eta


class InterruptibleRequest(SkewedRequest):
    """A custom request, as Celery documents them, with a hook for the moment when the worker cuts its task short.

    Internal: `Request.cancel`, Celery 5.7, called for what runs after a lost connection and in a cold shutdown. For a
    task that is acknowledged late no signal is sent in a shutdown. `Request._already_cancelled`: Celery sets it only
    after it has written to the result backend, and a child that ends without it is acknowledged as revoked. If the
    connection that was lost is the backend's too, the message would be lost.
    """

    def on_interrupted(self) -> None:
        """Prepare for the task to be cut short. Called from a signal's handler: no I/O."""
        raise NotImplementedError

    def cancel(self, pool: Any, *arguments: Any, **options: Any) -> None:
        """Cut the task short. A thread runs on, and a copy of its message comes all the same."""
        self.on_interrupted()
        self._already_cancelled = bool(self.time_start)
        with suppress(NotImplementedError):  # raised by pools of threads, before anything else is done
            super().cancel(pool, *arguments, **options)
