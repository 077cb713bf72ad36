"""A worker and the schema: it waits if the schema is older, and refuses a schema that is too new for its code."""

import sys
from pathlib import Path

import pytest

from tests.client.test_client import make_sender
from tests.factories import START, session_row
from tests.storage.test_schema_version import NEWER, move
from tests.warm import start
from tests.worker.test_database_faults import counts, wait_until
from usage_tasks.client import record_unconfirmed
from usage_tasks.coordination.clock import TestClock
from usage_tasks.embedded.processes import child_process
from usage_tasks.runtime import Runtime
from usage_tasks.storage.schema_version import needed_revision

WORKER = ("-m", "celery", "-A", "usage_tasks", "worker", "--queues=usage", "--pool=solo")


@pytest.mark.timeout(90)
def test_a_worker_that_is_started_before_migrate_takes_no_task_and_begins_after_it(
    rt: Runtime, environment: dict[str, str], tmp_path: Path
) -> None:
    TestClock(rt.redis).advance(START)
    sender = make_sender(environment["REDIS_URL"])
    log = tmp_path / "worker.log"
    move(rt.database, "0002")
    with child_process(
        [sys.executable, *WORKER], name="worker", log=log, environment=environment, launcher=start.launch
    ):
        record_unconfirmed(sender, [session_row()], actor="service:tests", at=START)
        wait_until(lambda: log.exists() and "worker.waits_for_schema" in log.read_text())
        assert f"the schema is 0002, older than this version's {needed_revision()}" in log.read_text()
        assert counts(rt) == (0, 0)
        move(rt.database, needed_revision())
        wait_until(lambda: counts(rt) == (1, 0))
        assert '"outcome": "retried"' not in log.read_text()


def test_a_worker_refuses_a_schema_that_is_too_new_for_it_in_one_line(rt: Runtime, environment: dict[str, str]) -> None:
    move(rt.database, NEWER)
    ended = start.run([sys.executable, *WORKER], env=environment)
    assert ended.returncode == 2
    assert "database: the schema is 9000, newer than this version's " in ended.stderr
    assert "Traceback" not in ended.stderr
