"""The system charges timelines as the oracle does: live, posted, corrected, priced again, and in usage reports."""

from collections import defaultdict
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.examples import examples
from tests.factories import DAY, HOUR, START
from tests.sessions.timelines.oracle import Session, Share, Value, Version, add_up
from tests.sessions.timelines.stories import (
    FIRST_VERSION_AT,
    INSTANTS,
    LAST,
    Story,
    agreeing,
    price_changes,
    report,
    segment,
)
from tests.sessions.timelines.system import NOW, System, assert_same, edges_of
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.ledger.usage_report import Group, Scope, sum_usage

AGAINST_THE_DATABASE = settings(
    max_examples=examples(36),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ASKED_AT = st.lists(st.one_of(INSTANTS, st.just(LAST)), min_size=1, max_size=6)
RANGES = st.builds(
    lambda start, length: (start, start + length), INSTANTS, st.timedeltas(timedelta(seconds=1), 3 * DAY)
)
SECOND = timedelta(seconds=1)


@AGAINST_THE_DATABASE
@given(story=agreeing(), instants=ASKED_AT)
def test_a_session_is_charged_along_its_timeline_live_and_posted(
    connection: Connection, story: Story, instants: list[datetime]
) -> None:
    session = Session(story.reports, story.prices)
    with rehearsal(connection):
        system = System(connection, story.prices)
        system.hear(*story.reports)
        assert_same(system, session, [*edges_of(session), *instants])
        for at in instants:
            assert system.burn_cents_per_hour(at) == session.burn(at)
            assert system.cost_at_most(at) >= session.cents(at)


@AGAINST_THE_DATABASE
@given(story=agreeing(max_size=4), instants=ASKED_AT)
def test_a_later_timeline_corrects_a_posted_session(
    connection: Connection, story: Story, instants: list[datetime]
) -> None:
    with rehearsal(connection):
        system = System(connection, story.prices)
        for number, each in enumerate(story.reports, start=1):
            session = Session(story.reports[:number], story.prices)
            system.hear(each)
            system.post()
            assert_same(system, session, [*edges_of(session)[-4:], *instants])


@AGAINST_THE_DATABASE
@given(story=agreeing(), instants=ASKED_AT, posted=st.booleans(), data=st.data())
def test_a_new_price_of_a_class_or_of_a_state_charges_the_session_again(
    connection: Connection, story: Story, instants: list[datetime], *, posted: bool, data: st.DataObject
) -> None:
    value, added = data.draw(price_changes(Session(story.reports, story.prices)))
    session = Session(story.reports, {**story.prices, value.price_key: [*story.prices[value.price_key], added]})
    with rehearsal(connection):
        system = System(connection, story.prices)
        system.hear(*story.reports)
        if posted:
            system.post()
        system.add_price(value, added)
        assert_same(system, session, [*edges_of(session), *instants])


@AGAINST_THE_DATABASE
@given(story=agreeing(), asked=RANGES, at=INSTANTS, posted=st.booleans())
def test_the_usage_of_a_range_is_the_charge_by_its_end_less_the_charge_by_its_begin(
    connection: Connection, story: Story, asked: tuple[datetime, datetime], at: datetime, *, posted: bool
) -> None:
    session, (start, end) = Session(story.reports, story.prices), asked
    expected: dict[date, list[Share]] = defaultdict(list)
    for (day, _), share in session.shares(start, end, at=at).items():
        expected[day].append(share)
    with rehearsal(connection):
        system = System(connection, story.prices)
        system.hear(*story.reports)
        if posted:
            system.post()
        rows, totals = sum_usage(
            connection, Scope(account=None), start=start, end=end, at=at, groups=(Group.DAY,), after=None, limit=9
        )
    by_day = {row.day: Share(row.credit_cents, row.seconds) for row in rows}
    assert by_day == {day: add_up(shares) for day, shares in expected.items()}
    assert Share(totals.credit_cents, totals.seconds) == add_up(by_day.values())


def version(price: str, since: datetime = FIRST_VERSION_AT) -> Version:
    """A version without a minimum, to the second."""
    return Version(since, Decimal(price))


def assert_costs(system: System, cents: int) -> None:
    """A session costs so much live and posted."""
    assert system.balances([NOW]) == [cents]
    system.post()
    system.assert_verified()
    assert system.posted_cents() == cents


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_nine_hours_at_a_half_and_one_at_one_are_330_credits_whatever_the_order(
    connection: Connection, order: tuple[int, ...]
) -> None:
    told = [
        report(workspace_class="large", observed_at=START),
        report(workspace_class="large", observed_at=START + 9 * HOUR, segments=[segment(START + 9 * HOUR, "xlarge")]),
        report(workspace_class="large", observed_at=START + 10 * HOUR, stopped_at=START + 10 * HOUR),
    ]
    system = System(connection, {})
    for number in order:
        system.hear(told[number])
        system.post()
    assert_costs(system, 33_000)


@pytest.mark.parametrize(("price", "cents"), [("0", 53), ("0.6", 58)])
def test_five_seconds_suspended_of_37_cost_what_the_state_costs(connection: Connection, price: str, cents: int) -> None:
    # 32 s at 1 a minute are 53.33 cents; 5 s at 0.6 are 5 more.
    system = System(connection, {"xlarge:suspended": [version(price)]})
    suspended = segment(START + 20 * SECOND, "xlarge", "suspended")
    system.hear(
        report(
            workspace_class="xlarge",
            stopped_at=START + 37 * SECOND,
            segments=[suspended, segment(START + 25 * SECOND, "xlarge")],
        )
    )
    assert_costs(system, cents)


def test_a_price_is_exact_to_its_last_digit(connection: Connection) -> None:
    # A second at 0.3 is half a cent, which rounds up; this is less. A quotient of 20 digits would round it to a half.
    system = System(connection, {"xlarge:suspended": [version("0.29999999999999999999")]})
    told = report(stopped_at=START + SECOND, segments=[segment(START, "xlarge", "suspended")])
    system.hear(told)
    assert_costs(system, 0)


def test_a_new_price_of_a_state_adjusts_a_posted_session(connection: Connection) -> None:
    system = System(connection, {"xlarge:suspended": [version("0")]})
    suspended = segment(START + HOUR, "xlarge", "suspended")
    system.hear(report(workspace_class="large", stopped_at=START + 3 * HOUR, segments=[suspended]))
    assert_costs(system, 60 * 50)
    system.add_price(Value("xlarge", "suspended"), version("0.1", START + 2 * HOUR))
    assert_costs(system, 60 * 50 + 60 * 10)


def test_a_resize_at_the_instant_of_a_price_change_costs_the_new_price_of_the_new_class(
    connection: Connection,
) -> None:
    prices = {
        "large": [version("7", START + HOUR)],
        "xlarge": [version("3", START + HOUR)],
    }
    system = System(connection, prices)
    resized = segment(START + HOUR, "xlarge")
    system.hear(report(workspace_class="large", stopped_at=START + 2 * HOUR, segments=[resized]))
    assert_costs(system, 60 * 50 + 60 * 300)


@pytest.mark.parametrize("state", ["suspended", "stopped_kept"])
def test_a_report_of_a_state_without_a_price_is_quarantined(connection: Connection, state: str) -> None:
    system = System(connection, {})
    system.hear(report(workspace_class="large", observed_at=START, stopped_at=START + HOUR))
    told: dict[str, Any] = report(
        workspace_class="large", observed_at=START + DAY, segments=[segment(START, "large", state)]
    )
    assert len(system.hear(told).rejections) == 1
    assert system.quarantined() == [told]
    assert system.values_at([START]) == [Value("large", "running")]
    assert system.balances([NOW]) == [3000]


def test_a_file_cannot_name_the_price_of_a_state_as_a_class(connection: Connection) -> None:
    system = System(connection, {"large:suspended": [Version(FIRST_VERSION_AT, Decimal(0))]})
    stop = report(workspace_class="large:suspended", observed_at=START + HOUR, stopped_at=START + HOUR)
    assert len(system.hear(stop).rejections) == 1
    system.hear_by_file(stop)
    assert connection.execute(text("SELECT count(*) FROM workspace_instance")).scalar_one() == 0
