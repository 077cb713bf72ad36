"""A worker that cuts its tasks short in order: no number of stops and reconnections makes a healthy task poison."""

import os
import signal
from typing import Any

import pytest
from kombu import pools

from tests.broker_pools import forget_pools
from tests.worker.workers import Workers, wait_until
from usage_tasks.coordination.dead_letters import (
    REDELIVERIES_MAX,
    count_dead_letters,
    count_redelivery,
    list_dead_letters,
)

NAP_SECONDS = 1.9


def begin_nap(workers: Workers) -> Any:
    """Have a worker begin a task whose workers have vanished as often as is borne; return the worker."""
    workers.environment["CELERY_CONFIG_MODULE"] = "tests.worker.celeryconfig"
    worker = workers.start("first", "--concurrency=2")
    task_id = workers.send("maintenance.chaos_nap", kwargs={"mark": "nap", "seconds": NAP_SECONDS})
    for _ in range(REDELIVERIES_MAX):
        count_redelivery(workers.redis, task_id)
    wait_until(lambda: workers.count("nap begun") == 1)
    return worker


@pytest.mark.timeout(90)
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGQUIT])
def test_a_task_that_a_stopped_worker_hands_on_is_not_counted(workers: Workers, told: signal.Signals) -> None:
    worker = begin_nap(workers)
    worker.send_signal(told)
    assert worker.wait(40) is not None
    workers.start("second", "--concurrency=1")
    wait_until(lambda: workers.count("nap ended") == 1)
    assert (workers.count("nap begun"), list_dead_letters(workers.redis)) == (2, [])


@pytest.mark.timeout(90)
def test_a_task_that_a_lost_connection_cuts_short_is_not_counted(workers: Workers) -> None:
    begin_nap(workers)
    (clients,) = workers.redis.config_get("maxclients").values()
    try:
        workers.redis.config_set("maxclients", 1)
        workers.redis.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: "Connection to broker lost" in workers.log("first"))
    finally:
        workers.redis.config_set("maxclients", str(clients))
        pools.reset()  # this process's connections were cut too
        forget_pools()
    wait_until(lambda: workers.count("nap ended") == 1)
    assert (workers.count("nap begun"), list_dead_letters(workers.redis)) == (2, [])


@pytest.mark.timeout(90)
def test_a_task_whose_worker_was_killed_is_counted_and_parked(workers: Workers) -> None:
    worker = begin_nap(workers)
    os.killpg(worker.pid, signal.SIGKILL)
    workers.start("second", "--concurrency=1")
    wait_until(lambda: count_dead_letters(workers.redis) == 1)
    assert workers.count("nap begun") == 1
