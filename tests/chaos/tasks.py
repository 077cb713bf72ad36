"""Tasks that misbehave, and tasks that do nothing."""

import os
import resource
import signal
import time
from datetime import timedelta

from celery import shared_task

from usage_tasks.runtime import runtime
from usage_tasks.tasks.task import Retry, task

ONCE_MORE = Retry(attempts_max=1, first=timedelta(seconds=1), longest=timedelta(seconds=1))


@task(name="maintenance.chaos_poison", time_limit=timedelta(minutes=1), retry=ONCE_MORE)
def poison(mark: str) -> None:
    """Kill the child that runs it."""
    runtime().redis.incr(mark)
    os.kill(os.getpid(), signal.SIGKILL)


@task(name="maintenance.chaos_nap", time_limit=timedelta(minutes=1))
def nap(mark: str, seconds: float) -> str:
    """Take a while, and say when it began and ended."""
    runtime().redis.incr(f"{mark} begun")
    time.sleep(seconds)
    runtime().redis.incr(f"{mark} ended")
    return mark


@task(name="maintenance.chaos_nothing", time_limit=timedelta(minutes=1))
def nothing() -> None:
    """Do nothing, as every task of ours does it."""


@shared_task(name="maintenance.chaos_bare")
def bare() -> None:
    """Do nothing, as Celery does it."""


@task(name="maintenance.chaos_memory", time_limit=timedelta(minutes=1))
def memory() -> dict[str, int]:
    """Tell how much memory the child holds."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a pseudo file
        pages = int(file.read().split()[1])
    return {"pid": os.getpid(), "rss_kib": pages * resource.getpagesize() // 1024}
