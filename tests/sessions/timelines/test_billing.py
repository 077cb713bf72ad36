"""The system charges timelines as the oracle does: live, posted, corrected, priced again, and in usage reports."""

from collections import defaultdict
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from tests.factories import DAY, HOUR, START
from tests.sessions.timelines.oracle import Session, Share, Value, add_up
from tests.sessions.timelines.stories import (
    INSTANTS,
    LAST,
    VALUES,
    Story,
    corrections,
    report,
    segment,
    versions_from,
)
from tests.sessions.timelines.system import NOW, System, facts_of
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.ledger.usage_report import Group, Scope, sum_usage

AGAINST_THE_DATABASE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
ASKED_AT = st.lists(st.one_of(INSTANTS, st.just(LAST)), min_size=1, max_size=6)
RANGES = st.builds(
    lambda start, length: (start, start + length), INSTANTS, st.timedeltas(timedelta(seconds=1), 3 * DAY)
)
BY_STATE = Group("state") if "state" in list(Group) else None
"""The grouping of usage by state."""


def assert_charged(system: System, session: Session, instants: list[datetime]) -> None:
    """The live balance is the charge at each instant, and the ledger's after posting, whatever was posted before."""
    edges = [*instants, *sorted(session.edges)[-3:], NOW]
    assert system.facts() == facts_of(session)
    assert [system.balance(at) for at in edges] == [session.cents(at) for at in edges]
    with rehearsal(system.connection):
        system.post()
        system.assert_verified()
        is_final = session.facts.stopped_at is not None
        assert not is_final or system.posted_cents() == session.cents(NOW)
        assert [system.balance(at) for at in edges] == [session.cents(at) for at in edges]


@AGAINST_THE_DATABASE
@given(story=corrections(), instants=ASKED_AT)
def test_a_session_is_charged_along_its_timeline_live_and_posted(
    connection: Connection, story: Story, instants: list[datetime]
) -> None:
    with rehearsal(connection):
        system = System(connection, story.prices)
        system.hear(*story.reports)
        assert_charged(system, Session(story.reports, story.prices), instants)


@AGAINST_THE_DATABASE
@given(story=corrections(), instants=ASKED_AT, data=st.data())
def test_a_later_timeline_corrects_a_posted_session(
    connection: Connection, story: Story, instants: list[datetime], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(story.reports))
    with rehearsal(connection):
        system = System(connection, story.prices)
        for number, each in enumerate(order, start=1):
            session = Session(order[:number], story.prices)
            system.hear(each)
            system.post()
            system.assert_verified()
            assert_charged(system, session, instants)


@AGAINST_THE_DATABASE
@given(story=corrections(), instants=ASKED_AT, value=st.sampled_from(VALUES), data=st.data())
def test_a_new_price_of_a_class_or_of_a_state_charges_the_session_again(
    connection: Connection, story: Story, instants: list[datetime], value: Value, data: st.DataObject
) -> None:
    taken = {version.effective_from for version in story.prices[value.price_key]}
    at = data.draw(st.one_of(INSTANTS, st.sampled_from(story.begins or [START])).filter(lambda each: each not in taken))
    added = data.draw(versions_from(at))
    with rehearsal(connection):
        system = System(connection, story.prices)
        system.hear(*story.reports)
        if data.draw(st.booleans()):
            system.post()
        system.add_price(value.price_key, added)
        prices = {**story.prices, value.price_key: [*story.prices[value.price_key], added]}
        assert_charged(system, Session(story.reports, prices), instants)


def expected_usage(
    session: Session, start: datetime, end: datetime, at: datetime, *, by_state: bool
) -> dict[tuple[Any, ...], Share]:
    groups: dict[tuple[Any, ...], list[Share]] = defaultdict(list)
    for (day, value), share in session.shares(start, end, at=at).items():
        groups[(day, *value) if by_state else (day, value.workspace_class)].append(share)
    return {key: add_up(shares) for key, shares in groups.items()}


def usage(
    system: System, start: datetime, end: datetime, at: datetime, *groups: Group
) -> tuple[dict[tuple[Any, ...], Share], Share]:
    rows, totals = sum_usage(
        system.connection, Scope(account=None), start=start, end=end, at=at, groups=groups, after=None, limit=10_000
    )
    by_key = {tuple(asdict(row)[group] for group in groups): Share(row.credit_cents, row.seconds) for row in rows}
    assert totals.sessions == bool(rows)
    assert {row.sessions for row in rows} <= {1}
    return by_key, Share(totals.credit_cents, totals.seconds)


@AGAINST_THE_DATABASE
@given(story=corrections(), asked=RANGES, at=INSTANTS, ticks=st.integers(0, 1))
def test_usage_is_cut_at_the_edges_of_segments(
    connection: Connection, story: Story, asked: tuple[datetime, datetime], at: datetime, ticks: int
) -> None:
    session, (start, end) = Session(story.reports, story.prices), asked
    with rehearsal(connection):
        system = System(connection, story.prices)
        system.hear(*story.reports)
        for _ in range(ticks):
            system.post()
        by_class, totals = usage(system, start, end, at, Group.DAY, Group.WORKSPACE_CLASS)
        assert by_class == expected_usage(session, start, end, at, by_state=False)
        assert totals == add_up(by_class.values())
        if BY_STATE is not None:
            by_state, same = usage(system, start, end, at, Group.DAY, Group.WORKSPACE_CLASS, BY_STATE)
            assert by_state == expected_usage(session, start, end, at, by_state=True)
            assert same == totals


def test_usage_may_be_grouped_by_state() -> None:
    assert BY_STATE is not None


def test_nine_hours_at_a_half_and_one_at_one_are_330_credits(connection: Connection) -> None:
    segments = [segment(START + 9 * HOUR, "xlarge")]
    system = System(connection, {})
    system.hear(report(workspace_class="large", observed_at=START))
    system.hear(report(workspace_class="large", observed_at=START + 9 * HOUR, segments=segments))
    system.hear(report(workspace_class="large", observed_at=START + 10 * HOUR, stopped_at=START + 10 * HOUR))
    assert system.balance(NOW) == 33_000
    system.post()
    assert system.posted_cents() == 33_000
    system.assert_verified()
    rows, _ = usage(system, START, START + DAY, NOW, Group.DAY, Group.WORKSPACE_CLASS)
    day: date = START.date()
    assert rows == {(day, "large"): Share(27_000, 9 * 3600), (day, "xlarge"): Share(6000, 3600)}


@pytest.mark.parametrize("state", ["suspended", "stopped_kept"])
def test_a_report_of_a_state_without_a_price_is_quarantined(connection: Connection, state: str) -> None:
    system = System(connection, {})
    system.hear(report(workspace_class="large", observed_at=START, stopped_at=START + HOUR))
    told = report(workspace_class="large", observed_at=START + DAY, segments=[segment(START, "large", state)])
    assert len(system.hear(told).rejections) == 1
    assert system.quarantined() == [told]
    assert system.values_at([START]) == [Value("large", "running")]
    assert system.balance(NOW) == 3000
