"""The shutdown of a worker: it takes no more messages, finishes its tasks, and hands on tasks that take too long.

Celery's warm shutdown waits without limit. Its soft one always waits to the end of its time, in a signal's handler, if
any task is under way: with a beat that ticks each second, nearly always. Here the warm shutdown ends with the tasks,
and after `worker_soft_shutdown_timeout` the cold one follows, which gives messages back. The cold one waits without
limit for threads, which cannot be cut short: after a few seconds the process ends all the same.

Nothing of ours runs in a signal's handler. It may interrupt anything, itself too: an import that is under way, or a
thread that is being started, whose lock it would wait for without end. So a thread watches what the handlers note.
"""

import os
import signal
import threading
import time
from typing import Any, Final

import structlog
from celery import signals
from redis.exceptions import RedisError

from usage_tasks.coordination.celery_internals.consumer import give_back, is_stopping, is_stopping_cold
from usage_tasks.worker.poison import forgive_interrupted

log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 0.2
_COLD_SECONDS_MAX: Final = 8
"""For a cold shutdown that ends by itself: it waits for a silent broker for 5 s at most."""


@signals.worker_init.connect
def _watch_shutdown(sender: Any = None, **_: object) -> None:
    if sender is not None:
        threading.Thread(target=_watch, args=(sender,), name="shutdown", daemon=True).start()


def _watch(worker: Any) -> None:
    """Bound the shutdown once it has begun. A worker that ends in time does not wait for this thread."""
    while not is_stopping():
        time.sleep(_LOOK_SECONDS)
    _wait_for_cold(worker.app.conf.worker_soft_shutdown_timeout)
    if not is_stopping_cold():
        worker.app.conf.worker_soft_shutdown_timeout = 0  # that time is over
        os.kill(os.getpid(), signal.SIGQUIT)
    _wait_for_cold(_COLD_SECONDS_MAX)
    time.sleep(_COLD_SECONDS_MAX)
    _end_by_force(worker)


def _wait_for_cold(seconds: float) -> None:
    """Wait until the shutdown is a cold one, no longer than so many seconds."""
    give_up_at = time.monotonic() + seconds
    while not is_stopping_cold() and time.monotonic() < give_up_at:
        time.sleep(_LOOK_SECONDS)


def _end_by_force(worker: Any) -> None:
    """Give the messages back and end. A task in a thread would run on beside the copy that another worker gets."""
    log.warning("worker.ended_by_force", reason="a task in a thread did not end; its message is given back")
    try:
        give_back(worker.consumer)
    except (RedisError, OSError) as error:
        log.warning("worker.messages_kept", reason=str(error))
    forgive_interrupted()
    os._exit(0)
