"""A worker or a beat waits for a broker that is away or answers with errors, and comes back with it (docs/adr/0029)."""

import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from usage_tasks.coordination.broker_probe import await_broker, move_wrong_types_aside, put_back
from usage_tasks.coordination.celery_internals.answers import UNTAKEN
from usage_tasks.coordination.celery_internals.patience import PatientConsumer
from usage_tasks.coordination.celery_internals.routing import list_consumed_queues
from usage_tasks.telemetry.metrics import BROKER_WAITS
from usage_tasks.worker.quick_redis import broker_redis

log = structlog.get_logger(__name__)

PAUSE_SECONDS_MAX: Final = 5.0
_PAUSE_FIRST: Final = 0.5
_HEALTHY_SECONDS: Final = 10.0
"""A connection that lived so long worked: the next one is made at once."""


def await_broker_as(kind: str, pause: Callable[[float], object] = time.sleep) -> None:
    """Wait until the broker takes a write; `kind` is the waiting process: worker or beat."""
    await_broker(broker_redis(), pause=pause, waits=lambda answer: BROKER_WAITS.labels(kind, answer).inc())


class AwaitingConsumer(PatientConsumer):
    """Connects when the broker takes a write; the setting `worker_consumer` names it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pause_seconds = 0.0
        self._connected_at: float | None = None

    def before_connect(self) -> None:
        """Wait for the broker, mend keys that others wrote, put back messages that could not be taken."""
        self._slow_down()
        await_broker_as("worker", self.pause)
        try:
            move_wrong_types_aside(broker_redis(), list_consumed_queues(self.app))
            put_back(broker_redis(), UNTAKEN)
        except RedisError as error:
            log.warning("broker.not_mended", answer=type(error).__name__, reason=str(error))
        self._connected_at = time.monotonic()

    def _slow_down(self) -> None:
        """Wait longer after each connection that did not last: the probe does not find every error."""
        lasted = None if self._connected_at is None else time.monotonic() - self._connected_at
        if lasted is None or lasted >= _HEALTHY_SECONDS:
            self._pause_seconds = 0.0
            return
        self._pause_seconds = min(PAUSE_SECONDS_MAX, max(_PAUSE_FIRST, 2 * self._pause_seconds))
        self.pause(self._pause_seconds)
