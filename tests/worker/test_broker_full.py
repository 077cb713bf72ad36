"""A broker that takes no message for a while, because its memory is full: no message is lost."""

import pytest

from tests.worker.workers import Workers, wait_until
from usage_tasks.runtime import Runtime

SECONDS = 2


@pytest.mark.timeout(150)
def test_a_retry_that_the_broker_does_not_take_is_made_later(workers: Workers, rt: Runtime) -> None:
    worker = workers.start("worker", "--concurrency=1")
    workers.send("maintenance.chaos_busy", kwargs={"mark": "busy", "seconds": SECONDS}, ignore_result=True)
    wait_until(lambda: workers.count("busy") == 1)
    try:
        rt.redis.config_set("maxmemory", 1)
        wait_until(lambda: "Couldn't reject" in workers.log("worker"))
        assert workers.count("busy") == 1
    finally:
        rt.redis.config_set("maxmemory", 0)
    wait_until(lambda: workers.count("busy") == 2, seconds=60)
    assert worker.poll() is None
    wait_until(lambda: not rt.redis.hlen("usage:unacked"))
