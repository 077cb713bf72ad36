"""A real worker that is told to stop while it works."""

import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.client.test_client import make_sender, start_worker
from tests.factories import START, session_row
from usage_tasks.runtime import Runtime

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
SECONDS_MAX = 20


@pytest.mark.timeout(60)
def test_a_worker_that_is_told_to_stop_ends_what_it_does_and_begins_nothing(
    rt: Runtime, environment: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    sender = make_sender(redis_url)
    with ExitStack() as workers:
        worker = start_worker(workers, environment, tmp_path, 1)
        with rt.transaction() as connection:
            connection.execute(text("LOCK TABLE workspace_instance IN ACCESS EXCLUSIVE MODE"))
            for _ in range(2):
                rows = {"instances": [session_row(stopped_at=START)], "actor": "service:tests"}
                sender.send_task("usage.record_instances", kwargs=rows, queue="usage")
            _wait_for_a_lock(rt)
            worker.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert worker.poll() is None  # it waits for what it has begun
        assert worker.wait(SECONDS_MAX) == 0
    with rt.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM workspace_instance")).scalar_one() == 1
    assert rt.redis.llen("usage:usage") == 1


def _wait_for_a_lock(rt: Runtime) -> None:
    give_up_at = time.monotonic() + SECONDS_MAX
    while time.monotonic() < give_up_at:
        with rt.transaction() as connection:
            if connection.execute(text(WAITING)).scalar_one():
                return
        time.sleep(0.02)
    raise AssertionError("the worker has begun nothing")
