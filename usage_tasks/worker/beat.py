"""Beat's schedule: periods by a clock that nobody sets, one tick of a task at a time (docs/adr/0027)."""

import os
import socket
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import redis
import structlog
from celery.beat import Scheduler
from celery.schedules import schedule

from usage_tasks.coordination import ticks
from usage_tasks.coordination.celery_internals.routing import find_queue
from usage_tasks.domain.errors import MisconfiguredError, RetryableError
from usage_tasks.runtime import runtime
from usage_tasks.telemetry.headers import TICK
from usage_tasks.worker.broker import await_broker_as
from usage_tasks.worker.heartbeat import HeartbeatFile
from usage_tasks.worker.installation import EXIT_CODE, look_or_refuse

_PAUSE_SECONDS: Final = 1.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


log = structlog.get_logger(__name__)


def steady_now() -> datetime:
    """Return an instant that passes as time does: nobody sets this clock. Its zero is the start of the machine."""
    return _EPOCH + timedelta(seconds=time.monotonic())


class BeatingScheduler(Scheduler):
    """A schedule in memory whose periods no clock's jump stretches or shrinks. Each turn is a heartbeat: one in 5 s.

    Celery's own counts a period from an instant of the host's clock: if that is set back by a day, beat is silent for
    a day (docs/adr/0027). A crontab of an installation's own follows the host's clock, as it must.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._file = HeartbeatFile("beat", f"beat@{socket.gethostname()}")
        self._unsent: dict[str, float] = {}
        """When each tick was due that is not sent, by the monotonic clock."""
        self._sent_at: float | None = None
        super().__init__(*arguments, **options)

    def setup_schedule(self) -> None:
        """Wait for the broker; count the periods by a clock that nobody sets."""
        self._may_send()  # first: a node of a cluster takes no write, however long it is waited for
        await_broker_as("beat")
        super().setup_schedule()
        for entry in self.schedule.values():
            every: Any = entry.schedule
            if type(every) is schedule and not every.relative:
                entry.schedule = schedule(every.seconds, nowfun=steady_now, app=self.app)
                entry.last_run_at = entry.default_now()

    def tick(self, *_: Any, **__: Any) -> float:
        """Send what is due and write a heartbeat; return the seconds to the next turn.

        Celery's own heap is not used: it orders entries by instants, and theirs are of two clocks.
        """
        if not self._may_send():
            self._file.write(self.app, due_at=min(self._unsent.values(), default=None), sent_at=self._sent_at)
            return _PAUSE_SECONDS
        waits = [self._take_turn(entry) for entry in list(self.schedule.values())]
        next_at = time.monotonic() + min(waits) if waits else None
        due_at = min(self._unsent.values(), default=next_at)
        self._file.write(self.app, due_at=due_at, sent_at=self._sent_at)
        return min([float(self.max_interval or 0), *waits])

    def _may_send(self) -> bool:
        """Return True if Redis is ours, or away: then nothing can be sent. End with code 2 if it is another's."""
        try:
            look_or_refuse()
        except MisconfiguredError as error:
            self.close()
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(EXIT_CODE)  # Celery's service turns every SystemExit into a code of 0
        except RetryableError as error:
            log.warning("installation.unknown", reason=str(error))
            return False
        except redis.RedisError as error:
            log.info("installation.not_seen", reason=str(error))
        return True

    def _take_turn(self, entry: Any) -> float:
        entry.last_run_at = min(entry.last_run_at, entry.default_now())  # a crontab's clock may have been set back
        due, seconds = self.is_due(entry)
        if due:
            self._unsent.setdefault(entry.name, time.monotonic())
            self.apply_entry(self.reserve(entry), producer=self.producer)
        return float(seconds)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send a tick, unless one like it still waits in its queue."""
        ours = entry.options.get("headers", {}).get(TICK, False)
        if not ours or ticks.may_send(runtime().redis, entry.task, queue=find_queue(self.app, entry.task).name):
            super().apply_entry(entry, producer=producer)
        else:
            self._unsent.pop(entry.name, None)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **options: Any) -> Any:  # noqa: FBT001, FBT002 - as Celery calls it
        """Send a tick, and note that it was sent. Raises SchedulingError, which `apply_entry` logs."""
        sent = super().apply_async(entry, producer=producer, advance=advance, **options)
        self._unsent.pop(entry.name, None)
        self._sent_at = time.monotonic()
        return sent

    def close(self) -> None:
        """End in order."""
        self._file.remove()
        super().close()
