"""Reports that contradict one another, taken up at once by several workers, end as the earliest one says."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from random import Random

import pytest
from sqlalchemy import text

from tests.factories import DAY, HOUR, START, make_id, record, see, segment, session_report, stopped_report, team
from usage_tasks.domain.errors import RetryableError
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger.balances import get_balance

END = START + DAY
ATTEMPTS = 20
HELD = "SELECT DISTINCT workspace_class, jsonb_array_length(timeline) FROM workspace_instance"
WAITING = "SELECT CAST(report AS jsonb) ->> 'workspace_class' FROM quarantined_report"


def told(number: int) -> list[SessionReport]:
    """Ten reports of a session: the earliest says `large`, half of the others say `small`."""
    it = make_id(number)
    reports = []
    for hour in range(10):
        at = START + timedelta(hours=hour, minutes=number)
        fields = {"instance_id": it, "observed_at": at, "source": "eu"}
        if hour == 9:
            reports.append(stopped_report(10 * HOUR, workspace_class="large", **fields))
        elif hour % 2:
            reports.append(session_report(workspace_class="small", **fields))
        else:
            change = (segment(START + hour * HOUR, "xlarge" if hour % 4 else "medium", observed_at=at),)
            reports.append(session_report(workspace_class="large", segments=change if hour else (), **fields))
    return reports


def work(database: Database, batches: Sequence[Sequence[SessionReport]], seed: int) -> None:
    """Record batches in an order of one's own, with postings and snapshots between them; try again as a task would."""
    rng = Random(seed)
    for batch in rng.sample(batches, len(batches)):
        for _ in range(ATTEMPTS):
            try:
                with database.transaction() as connection:
                    record(connection, *batch)
                with database.transaction() as connection:
                    if rng.random() < 0.5:
                        post_batch(connection, at=END)
                    else:
                        see(connection, "us", START)
                break
            except RetryableError:
                continue
        else:
            raise AssertionError("tried again and again")


@pytest.mark.timeout(120)
@pytest.mark.holds("usage.fixed-facts")
@pytest.mark.parametrize("seed", range(6))
def test_workers_that_take_sessions_over_at_once_end_as_the_earliest_reports_say(database: Database, seed: int) -> None:
    sessions = [told(number) for number in range(4)]
    # Batches of one hour say one thing of a session, batches of several hours contradict themselves.
    hours = 1 + seed % 3
    by_hour = [[each for reports in sessions for each in reports[hour : hour + hours]] for hour in range(0, 10, hours)]
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, database, by_hour, 10 * seed + number) for number in range(4)]:
            done.result()
    with database.transaction() as connection:
        while post_batch(connection, at=END).entries:
            pass
        held = connection.execute(
            text("SELECT DISTINCT workspace_class, jsonb_array_length(timeline) FROM workspace_instance")
        )
        assert [tuple(row) for row in held] == [("large", 4)]
        # 2 h at 0.5, 2 h at 1, 2 h at 0.2, 2 h at 1, 2 h at 0.2 a minute.
        assert get_balance(connection, team(), at=END) == 4 * (6_000 + 12_000 + 2_400 + 12_000 + 2_400)
        waiting = connection.execute(
            text("SELECT report ->> 'workspace_class' FROM (SELECT report::jsonb FROM quarantined_report) AS q")
        )
        assert set(waiting.scalars()) == {"small"}
        verdict = verify(connection, at=END)
        assert verdict.clean, verdict.describe()
