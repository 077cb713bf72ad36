"""Older workers beside newer ones: they leave sessions with a timeline to these. docs/adr/0034-timelines.md, 0025."""

from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.factories import DAY, HOUR, START, record, segment, session_report, stopped_report, team
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.storage.ledger.balances import get_balance

# What the version before timelines wrote when a price reopened a posted session.
REOPEN = text("""
    INSERT INTO open_session
        (attribution_id, instance_id, workspace_class, started_at, ended_at, final_at, revision, posted_cents,
         settled_at)
    SELECT w.attribution_id, w.instance_id, w.workspace_class, w.started_at, w.ended_at, w.final_at, 2,
           e.credit_cents, e.effective_at
    FROM workspace_instance w JOIN ledger_entry e USING (instance_id)
    ON CONFLICT DO NOTHING
""")
# How it merged a report that is greater than what is held.
MERGE = text("""
    UPDATE workspace_instance SET workspace_class = :workspace_class, stopped_at = :stopped_at,
        observed_at = :observed_at, recorded_at = clock_timestamp()
""")
OPEN = "SELECT workspace_class, timeline IS NOT NULL FROM open_session"
PRICED = "SELECT count(*) FROM open_session JOIN price_version USING (workspace_class)"
CHANGED = [segment(START + HOUR, "xlarge")]


def rows(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(text(statement))]


@pytest.mark.holds("usage.timeline")
def test_what_older_code_opens_again_has_its_timeline_and_no_price_that_older_code_finds(
    connection: Connection,
) -> None:
    record(connection, stopped_report(2 * HOUR, workspace_class="large", segments=CHANGED))
    assert post_batch(connection, at=START + DAY).credit_cents == 3_000 + 6_000
    connection.execute(REOPEN)
    assert rows(connection, OPEN) == [("large:timeline", True)]
    assert rows(connection, PRICED) == [(0,)]
    assert get_balance(connection, team(), at=START + DAY) == 9_000
    assert post_batch(connection, at=START + DAY).credit_cents == 0
    assert verify(connection, at=START + DAY).clean


def test_a_session_without_a_timeline_is_opened_again_as_before(connection: Connection) -> None:
    record(connection, stopped_report(2 * HOUR, workspace_class="large"))
    post_batch(connection, at=START + DAY)
    connection.execute(REOPEN)
    assert rows(connection, OPEN) == [("large", False)]


def test_a_report_that_older_code_merges_keeps_the_timeline(connection: Connection) -> None:
    record(connection, session_report(workspace_class="large", segments=CHANGED))
    values = {"workspace_class": "large", "stopped_at": START + 3 * HOUR, "observed_at": START + 3 * HOUR}
    connection.execute(MERGE, values)
    assert rows(connection, OPEN) == [("large:timeline", True)]
    assert post_batch(connection, at=START + DAY).credit_cents == 3_000 + 12_000
    assert verify(connection, at=START + DAY).clean


def test_where_older_code_changes_the_class_at_the_start_the_sums_follow(
    connection: Connection,
) -> None:
    record(connection, stopped_report(2 * HOUR, workspace_class="large", segments=CHANGED))
    post_batch(connection, at=START + DAY)
    values = {"workspace_class": "small", "stopped_at": START + 2 * HOUR, "observed_at": START + 3 * HOUR}
    connection.execute(MERGE, values)
    assert rows(connection, OPEN) == [("small:timeline", True)]
    assert post_batch(connection, at=START + DAY).credit_cents == -3_000 + 600
    assert verify(connection, at=START + DAY).clean
