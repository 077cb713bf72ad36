from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.examples import examples
from tests.factories import DAY, HOUR, START, make_id, record, session_report, stopped_report, team, user
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.sessions.record import RecordedBatch
from usage_tasks.storage.sessions.quarantine import list_quarantined

MINUTE = timedelta(minutes=1)
FACTS = """
    SELECT instance_id, attribution_id, user_id, workspace_id, workspace_class, created_at, started_at, stopping_at,
           stopped_at, observed_at
    FROM workspace_instance ORDER BY instance_id
"""
ENTRIES = "SELECT key, kind, credit_cents, effective_at FROM ledger_entry ORDER BY key"
TOTALS = "SELECT attribution_id, carried_cents FROM account_balance WHERE carried_cents <> 0 ORDER BY attribution_id"


def rows(connection: Connection, statement: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(text(statement))]


def counts(done: RecordedBatch) -> tuple[int, int, int, int]:
    return done.merged.inserted, done.merged.updated, done.merged.unchanged, len(done.rejections)


@pytest.mark.holds("lesson.silent-conflict")
def test_a_batch_says_what_was_new_updated_and_unchanged(connection: Connection) -> None:
    running, other = session_report(), session_report()
    assert counts(record(connection, running, other)) == (2, 0, 0, 0)
    stopped = stopped_report(instance_id=running.instance_id)
    assert counts(record(connection, stopped, other, session_report())) == (1, 1, 1, 0)


def test_no_reports_are_no_error(connection: Connection) -> None:
    assert counts(record(connection)) == (0, 0, 0, 0)


@pytest.mark.holds("usage.reported-twice")
def test_the_same_report_twice_is_one_session_and_one_entry(connection: Connection) -> None:
    report = stopped_report()
    assert counts(record(connection, report, report)) == (1, 0, 1, 0)
    assert post_batch(connection, at=START + DAY).entries == 1
    assert counts(record(connection, report)) == (0, 0, 1, 0)
    assert post_batch(connection, at=START + DAY).entries == 0


def test_a_stop_cannot_be_taken_back(connection: Connection) -> None:
    stopped = stopped_report()
    record(connection, stopped)
    resumed = session_report(instance_id=stopped.instance_id, observed_at=START + 9 * DAY)
    assert counts(record(connection, resumed)) == (0, 0, 1, 0)
    assert connection.execute(text("SELECT stopped_at FROM workspace_instance")).scalar_one() == stopped.stopped_at


def test_a_stopping_time_cannot_be_taken_back(connection: Connection) -> None:
    stopping = session_report(stopping_at=START + HOUR, observed_at=START + HOUR)
    record(connection, stopping)
    resumed = session_report(instance_id=stopping.instance_id, observed_at=START + 9 * DAY)
    assert counts(record(connection, resumed)) == (0, 0, 1, 0)


@pytest.mark.holds("usage.corrected", "lesson.stale-overwrite")
def test_a_correction_of_a_final_session_is_an_adjustment_and_no_edit(connection: Connection) -> None:
    wrong = stopped_report(60 * MINUTE, workspace_class="xlarge")
    record(connection, wrong)
    post_batch(connection, at=START + DAY)
    booked = rows(connection, ENTRIES)
    right = stopped_report(
        45 * MINUTE, instance_id=wrong.instance_id, workspace_class="xlarge", observed_at=START + DAY
    )
    assert counts(record(connection, right)) == (0, 1, 0, 0)
    done = post_batch(connection, at=START + DAY)
    assert (done.entries, done.credit_cents) == (1, -1500)
    key = f"session:{wrong.instance_id}"
    assert rows(connection, ENTRIES) == [*booked, (f"{key}:2", "adjustment", -1500, wrong.stopped_at)]
    assert booked == [(f"{key}:1", "session", 6000, wrong.stopped_at)]
    assert rows(connection, TOTALS) == [(team(), 4500)]


def test_corrections_before_the_next_posting_are_one_adjustment(connection: Connection) -> None:
    first = stopped_report(10 * MINUTE, workspace_class="xlarge")
    record(connection, first)
    post_batch(connection, at=START + DAY)
    for minutes in (20, 30):
        again = {"instance_id": first.instance_id, "workspace_class": "xlarge"}
        record(connection, stopped_report(minutes * MINUTE, **again))
    assert post_batch(connection, at=START + DAY).credit_cents == 2000
    assert [row[0] for row in rows(connection, ENTRIES)] == [f"session:{first.instance_id}:{n}" for n in (1, 2)]


def test_a_correction_of_what_is_not_billed_makes_no_entry(connection: Connection) -> None:
    first = stopped_report()
    record(connection, first)
    post_batch(connection, at=START + DAY)
    renamed = stopped_report(instance_id=first.instance_id, workspace_id="ws-2", observed_at=START + DAY)
    assert counts(record(connection, renamed)) == (0, 1, 0, 0)
    assert post_batch(connection, at=START + DAY).entries == 0


@pytest.mark.holds("usage.other-account")
@pytest.mark.parametrize("ticks", [0, 1])
def test_a_session_stays_with_the_account_that_was_reported_first(connection: Connection, ticks: int) -> None:
    first = stopped_report(HOUR, attribution_id=team("a"), workspace_class="xlarge")
    record(connection, first)
    for _ in range(ticks):
        post_batch(connection, at=START + DAY)
    for seen_at in (START - DAY, START + 2 * DAY):  # before the first report, or after it
        later = replace(first, attribution_id=team("b"), observed_at=seen_at)
        assert [each.field for each in record(connection, later, at=START + 2 * DAY).rejections] == ["attribution_id"]
    post_batch(connection, at=START + 2 * DAY)
    assert rows(connection, "SELECT attribution_id, credit_cents FROM ledger_entry") == [(team("a"), 6000)]
    assert rows(connection, "SELECT attribution_id FROM cost_center") == [(team("a"),)]
    # A correction under the first account is taken.
    assert counts(record(connection, replace(first, stopped_at=START + 2 * HOUR, observed_at=START + 3 * DAY))) == (
        0,
        1,
        0,
        0,
    )


@pytest.mark.holds("usage.other-account")
def test_a_session_of_another_account_is_refused_with_the_reason(connection: Connection) -> None:
    first = session_report(attribution_id=team("a"))
    record(connection, first)
    foreign = stopped_report(instance_id=first.instance_id, attribution_id=team("b"))
    done = record(connection, session_report(), foreign)
    assert counts(done) == (1, 0, 0, 1)
    refused = done.rejections[0]
    assert (refused.index, refused.field) == (1, "attribution_id")
    assert refused.reason == f"must be {team('a')}, the account of session {first.instance_id} (got {team('b')!r})"
    assert [(each.field, each.reason) for each in list_quarantined(connection, limit=10)] == [
        (refused.field, refused.reason)
    ]
    held = "SELECT attribution_id, stopped_at FROM workspace_instance WHERE attribution_id <> :new"
    assert [tuple(row) for row in connection.execute(text(held), {"new": team()})] == [(team("a"), None)]


def test_a_refused_report_opens_no_account(connection: Connection) -> None:
    first = session_report(attribution_id=team("a"))
    record(connection, first)
    record(connection, session_report(instance_id=first.instance_id, attribution_id=team("b")))
    record(connection, session_report(attribution_id=team("c"), workspace_class="gold"))
    assert rows(connection, "SELECT attribution_id FROM cost_center") == [(team("a"),)]


def test_within_a_batch_the_first_report_says_whose_a_session_is(connection: Connection) -> None:
    first = session_report(attribution_id=team("a"))
    done = record(connection, first, session_report(instance_id=first.instance_id, attribution_id=team("b")))
    assert counts(done) == (1, 0, 0, 1)
    assert done.rejections[0].index == 1


def test_a_wrong_account_in_a_batch_does_not_keep_the_right_one_out(connection: Connection) -> None:
    first = session_report(attribution_id=team("a"))
    record(connection, first)
    wrong = session_report(instance_id=first.instance_id, attribution_id=team("b"))
    right = stopped_report(instance_id=first.instance_id, attribution_id=team("a"))
    done = record(connection, wrong, right)
    assert counts(done) == (0, 1, 0, 1)
    assert done.rejections[0].index == 0


@pytest.mark.holds("numbers.unknown-class")
def test_an_unknown_class_is_quarantined_and_never_billed(connection: Connection) -> None:
    done = record(connection, stopped_report(workspace_class="gold"), stopped_report())
    assert counts(done) == (1, 0, 0, 1)
    assert (done.rejections[0].index, done.rejections[0].field) == (0, "workspace_class")
    assert (
        "must be a class with a price: default, large, medium, small, xlarge (got 'gold')" in done.rejections[0].reason
    )
    assert post_batch(connection, at=START + DAY).entries == 1


def test_the_first_session_opens_its_account_once(connection: Connection) -> None:
    record(connection, session_report(), session_report(), session_report(attribution_id=user()), at=START)
    record(connection, session_report(), at=START + DAY)
    opened = "SELECT attribution_id, spending_limit, cycle_started_at FROM cost_center ORDER BY 1"
    assert rows(connection, opened) == [(team(), 500, START), (user(), 100, START)]


def moments(last: int) -> st.SearchStrategy[Any]:
    return st.none() | st.integers(0, last).map(lambda quarters: START + 15 * MINUTE * quarters)


@st.composite
def reports(draw: st.DrawFn) -> SessionReport:
    """Reports of few sessions with few instants: many contradict, many tie."""
    return session_report(
        instance_id=make_id(draw(st.integers(0, 2))),
        user_id=make_id(draw(st.integers(0, 1))),
        workspace_id=draw(st.sampled_from(["ws-1", "ws-2"])),
        workspace_class=draw(st.sampled_from(["small", "xlarge"])),
        created_at=draw(moments(1)),
        started_at=START + draw(st.integers(0, 4)) * MINUTE,
        stopping_at=draw(moments(8)),
        stopped_at=draw(moments(8)),
        observed_at=START + draw(st.integers(0, 3)) * HOUR,
    )


def outcome(connection: Connection, order: Sequence[SessionReport], ticks: Sequence[bool]) -> object:
    """Record reports one by one, the ledger job running where a tick is true, and once more at the end."""
    savepoint = connection.begin_nested()
    for report, tick in zip(order, ticks, strict=True):
        record(connection, report)
        if tick:
            post_batch(connection, at=report.observed_at)
    post_batch(connection, at=START + DAY)
    found = rows(connection, FACTS), rows(connection, TOTALS)
    savepoint.rollback()
    return found


@pytest.mark.holds("lesson.stale-overwrite")
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), batch=st.lists(reports(), min_size=1, max_size=5))
def test_any_order_of_reports_with_any_ticks_ends_in_the_same_facts_and_total(
    connection: Connection, data: st.DataObject, batch: list[SessionReport]
) -> None:
    never = [False] * len(batch)
    straight = outcome(connection, batch, never)
    repeated = [*batch, *data.draw(st.lists(st.sampled_from(batch), max_size=3))]
    shuffled = data.draw(st.permutations(repeated))
    ticks = data.draw(st.lists(st.booleans(), min_size=len(shuffled), max_size=len(shuffled)))
    assert outcome(connection, shuffled, ticks) == straight
    savepoint = connection.begin_nested()
    record(connection, *shuffled)
    post_batch(connection, at=START + DAY)
    assert (rows(connection, FACTS), rows(connection, TOTALS)) == straight
    savepoint.rollback()
