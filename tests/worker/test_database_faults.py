"""A real worker whose database is read-only for a while, as after a failover behind an address that stays."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from tests.client.test_client import make_sender, start_worker
from tests.conftest import Administer
from tests.factories import START, session_row
from tests.storage.test_engine import read_only
from tests.tasks.test_dead_letters import EVENT
from usage_tasks.client import record, record_unconfirmed
from usage_tasks.coordination.clock import TestClock
from usage_tasks.runtime import Runtime

SENT = 5
SECONDS_MAX = 40
COUNTS = "SELECT (SELECT count(*) FROM workspace_instance), (SELECT count(*) FROM stripe_event)"


@pytest.mark.timeout(90)
def test_reports_and_events_that_meet_a_read_only_database_all_take_effect_later(
    rt: Runtime,
    environment: dict[str, str],
    database_url: str,
    administer: Administer,
    tmp_path: Path,
) -> None:
    TestClock(rt.redis).advance(START)
    sender = make_sender(environment["REDIS_URL"])
    with ExitStack() as workers:
        start_worker(workers, environment, tmp_path, 1, queue="usage,stripe")
        record(sender, [session_row()], actor="service:tests", at=START)
        with read_only(rt.database, database_url, administer):
            end_other_sessions(database_url)
            for number in range(SENT):
                record_unconfirmed(sender, [session_row()], actor="service:tests", at=START)
                event_id = f"evt_{number}"
                arguments = {"event_id": event_id, "payload": EVENT["payload"].replace("evt_1", event_id)}
                sender.send_task("stripe.receive_event", kwargs=arguments, queue="stripe", ignore_result=True)
            wait_until(lambda: (tmp_path / "worker-1.log").read_text().count('"outcome": "retried"') >= 4 * SENT)
        # The worker's session is read-only until it ends: only a new one can write.
        wait_until(lambda: counts(rt) == (1 + SENT, SENT))


def counts(rt: Runtime) -> tuple[int, ...]:
    with rt.transaction() as connection:
        return tuple(connection.execute(text(COUNTS)).one())


def end_other_sessions(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
