import calendar
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_tasks.domain.cycles import Cycle, add_months

TEN_YEARS = 120


def cycles_from(anchor: datetime, count: int) -> list[Cycle]:
    cycles = [Cycle(anchor_at=anchor, number=0)]
    while len(cycles) < count:
        cycles.append(cycles[-1].following())
    return cycles


@pytest.mark.holds("cost-center.month-arithmetic")
def test_a_cycle_of_the_31st_returns_to_the_31st() -> None:
    edges = [cycle.started_at.date().isoformat() for cycle in cycles_from(datetime(2026, 1, 31, 9, tzinfo=UTC), 5)]
    assert edges == ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]


def test_a_cycle_of_the_31st_meets_the_29th_of_a_leap_year() -> None:
    assert add_months(datetime(2027, 12, 31, tzinfo=UTC), 2) == datetime(2028, 2, 29, tzinfo=UTC)


def test_a_cycle_of_the_29th_of_february_returns_to_it_after_four_years() -> None:
    anchor = datetime(2028, 2, 29, 1, 2, 3, 4, tzinfo=UTC)
    assert add_months(anchor, 12) == datetime(2029, 2, 28, 1, 2, 3, 4, tzinfo=UTC)
    assert add_months(anchor, 48) == datetime(2032, 2, 29, 1, 2, 3, 4, tzinfo=UTC)


@pytest.mark.parametrize(("months", "expected"), [(-1, (2025, 12, 31)), (-2, (2025, 11, 30)), (-11, (2025, 2, 28))])
def test_months_can_be_taken_back(months: int, expected: tuple[int, int, int]) -> None:
    assert add_months(datetime(2026, 1, 31, tzinfo=UTC), months) == datetime(*expected, tzinfo=UTC)


@pytest.mark.holds("cost-center.month-arithmetic", "lesson.month-end")
@pytest.mark.parametrize("year", [2027, 2028])
def test_ten_years_from_each_day_of_a_year_have_no_gap_and_no_drift(year: int) -> None:
    day = datetime(year, 1, 1, 23, 59, 59, 999_999, tzinfo=UTC)
    while day.year == year:
        cycles = cycles_from(day, TEN_YEARS)
        assert cycles[0].started_at == day
        for cycle, following in pairwise(cycles):
            assert cycle.started_at < cycle.ends_at == following.started_at
        for cycle in cycles:
            edge = cycle.started_at
            assert edge.day == min(day.day, calendar.monthrange(edge.year, edge.month)[1])
            assert edge.timetz() == day.timetz()
        day += timedelta(days=1)


@pytest.mark.holds("lesson.month-end")
@given(
    st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - made aware here
    st.integers(0, 1200),
)
def test_every_cycle_is_a_calendar_month_from_its_anchor(anchor: datetime, number: int) -> None:
    cycle = Cycle(anchor_at=anchor, number=number)
    months = (cycle.started_at.year - anchor.year) * 12 + cycle.started_at.month - anchor.month
    assert months == number
    assert timedelta(days=28) <= cycle.ends_at - cycle.started_at <= timedelta(days=31)
