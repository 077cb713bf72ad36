"""How a worker ends that is told to: it takes nothing more, finishes what it does, and hands on what takes too long.

Celery's warm shutdown waits without limit, its soft one always to the end of its time, in a signal's handler, with
whatever is under way: with a beat that ticks each second, nearly always. Here the warm one ends when its work does, and
after `worker_soft_shutdown_timeout` the cold one follows, which gives messages back.
"""

import os
import signal
import threading
from typing import Any


def bound_warm_shutdown(app: Any, how: str) -> threading.Timer | None:
    """Have a warm shutdown that has begun followed by a cold one; answer the timer, None where it is cold already."""
    if how != "Warm":
        return None
    timer = threading.Timer(app.conf.worker_soft_shutdown_timeout, _end_at_once, args=(app,))
    timer.daemon = True  # who ends in time is not kept for it
    timer.start()
    return timer


def _end_at_once(app: Any) -> None:
    app.conf.worker_soft_shutdown_timeout = 0  # it has been waited for
    os.kill(os.getpid(), signal.SIGQUIT)
