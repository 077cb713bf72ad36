"""The shutdown of a worker: it takes nothing more, finishes its tasks, and hands on those that take too long.

Celery's warm shutdown waits without limit. Its soft one always waits to the end of its time, in a signal's handler, if
any task is under way: with a beat that ticks each second, nearly always. Here the warm shutdown ends with the tasks,
and after `worker_soft_shutdown_timeout` the cold one follows, which gives messages back.
"""

import os
import signal
import threading
from typing import Any


def bound_warm_shutdown(app: Any, how: str) -> threading.Timer | None:
    """Follow a warm shutdown that has begun by a cold one; return the timer, or None if it is cold already."""
    if how != "Warm":
        return None
    timer = threading.Timer(app.conf.worker_soft_shutdown_timeout, _end_at_once, args=(app,))
    timer.daemon = True  # a worker that ends in time does not wait for it
    timer.start()
    return timer


def _end_at_once(app: Any) -> None:
    app.conf.worker_soft_shutdown_timeout = 0  # that time is over
    os.kill(os.getpid(), signal.SIGQUIT)
