"""A real worker that gets SIGTERM while it works."""

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.client.test_client import make_sender, start_worker
from tests.factories import START, session_row
from usage_tasks.runtime import Runtime

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
SECONDS_MAX = 20


@pytest.mark.holds("jobs.stop")
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
            _wait_until(lambda: _locks_waited_for(rt) > 0)
            worker.send_signal(signal.SIGTERM)
            _wait_until(lambda: "Warm shutdown" in (tmp_path / "worker-1.log").read_text())
            assert worker.poll() is None  # it waits for what it has begun
        assert worker.wait(SECONDS_MAX) == 0
    with rt.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM workspace_instance")).scalar_one() == 1
    assert rt.redis.llen("usage:usage") == 1


def _locks_waited_for(rt: Runtime) -> int:
    with rt.transaction() as connection:
        return int(connection.execute(text(WAITING)).scalar_one())


def _wait_until(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
