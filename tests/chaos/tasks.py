"""Tasks that misbehave, and tasks that do nothing."""

import os
import signal
import time
from datetime import timedelta

from celery import current_app, shared_task
from sqlalchemy import text

from usage_tasks.domain.access import Role
from usage_tasks.domain.errors import RetryableError
from usage_tasks.runtime import runtime
from usage_tasks.tasks.task import LOST_WORKER_ATTEMPTS_MAX, LOST_WORKER_DELAY_SECONDS, Retry, task
from usage_tasks.wire.values import ActorText, Attribution, Moment

ONCE_MORE = Retry(attempts_max=1, first=timedelta(seconds=1), longest=timedelta(seconds=1))
PATIENT = Retry(attempts_max=8, first=timedelta(minutes=2), longest=timedelta(minutes=2))


@task(name="maintenance.chaos_poison", time_limit=timedelta(minutes=1), retry=ONCE_MORE)
def poison(mark: str) -> None:
    """Kill the child that runs it."""
    runtime().redis.incr(mark)
    os.kill(os.getpid(), signal.SIGKILL)


@task(name="maintenance.chaos_nap", time_limit=timedelta(minutes=1))
def nap(mark: str, seconds: float) -> str:
    """Take a while; count its begin and its end in Redis."""
    runtime().redis.incr(f"{mark} begun")
    time.sleep(seconds)
    runtime().redis.incr(f"{mark} ended")
    return mark


@task(name="maintenance.chaos_send", time_limit=timedelta(minutes=1))
def send(mark: str, seconds: float, queue: str) -> None:
    """Take a while, and send a nap."""
    time.sleep(seconds)
    current_app.send_task("maintenance.chaos_nap", kwargs={"mark": mark, "seconds": 0}, queue=queue, ignore_result=True)


@task(name="maintenance.chaos_read", time_limit=timedelta(minutes=1))
def read() -> None:
    """Read from the database."""
    with runtime().transaction() as connection:
        connection.execute(text("SELECT count(*) FROM job_run"))


@task(name="maintenance.chaos_hold", time_limit=timedelta(minutes=2))
def hold(mark: str, number: int, seconds: float) -> str:
    """Lock a row that is each number's own, take a while, write, and note when that began and ended."""
    key = f"{mark} {number}"
    with runtime().transaction() as connection:
        connection.execute(
            text("INSERT INTO job_epoch (job, epoch) VALUES (:job, 0) ON CONFLICT DO NOTHING"), {"job": key}
        )
    with runtime().transaction() as connection:
        connection.execute(text("SELECT FROM job_epoch WHERE job = :job FOR UPDATE"), {"job": key})
        runtime().redis.incr(f"{mark} begun")
        time.sleep(seconds)
        connection.execute(text("UPDATE job_epoch SET epoch = 1 WHERE job = :job"), {"job": key})
    runtime().redis.sadd(f"{mark} ended", number)
    return mark


@task(name="maintenance.chaos_busy", time_limit=timedelta(minutes=1), retry=ONCE_MORE)
def busy(mark: str, seconds: float = 0) -> str:
    """Find the world busy the first time, after a while."""
    if runtime().redis.incr(mark) == 1:
        time.sleep(seconds)
        raise RetryableError(mark)
    return mark


@task(name="maintenance.chaos_nothing", time_limit=timedelta(minutes=1))
def nothing() -> None:
    """Do nothing, as every task of ours does it."""


@task(name="maintenance.chaos_ours", time_limit=timedelta(minutes=1), needs=Role.OWNER)
def ours(attribution_id: Attribution, actor: ActorText, at: Moment) -> dict[str, int]:
    """Do nothing for an account, asked by a service, as every task of ours does it."""
    assert attribution_id
    assert actor
    assert at
    return {"inserted": 1}


@shared_task(
    name="maintenance.chaos_bare",
    typing=False,
    time_limit=60,
    soft_time_limit=54,
    max_retries=LOST_WORKER_ATTEMPTS_MAX,
    default_retry_delay=LOST_WORKER_DELAY_SECONDS,
)
def bare(attribution_id: str, actor: str, at: str) -> dict[str, int]:
    """Do nothing, as Celery does it; declared to Celery as `ours` is."""
    assert attribution_id
    assert actor
    assert at
    return {"inserted": 1}


@shared_task(name="maintenance.chaos_gate")
def gate(mark: str) -> None:
    """Report that the queue is worked off up to here, and hold it until a test opens the gate."""
    client = runtime().redis
    client.rpush(f"{mark} reached", 1)
    for _ in range(120):
        if client.blpop([f"{mark} open"], timeout=1):
            return
    raise TimeoutError(mark)


@task(name="maintenance.chaos_waiting", time_limit=timedelta(minutes=1), retry=PATIENT)
def waiting(mark: str) -> None:
    """Find the world busy, and wait for a retry."""
    runtime().redis.incr(f"{mark} waiting")
    raise RetryableError("busy")
