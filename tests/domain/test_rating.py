from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import DAY, HOUR, START
from usage_tasks.domain.rating import PricedSpan, PriceVersion, elapsed_seconds, price, split_at_prices

SIXTH = Decimal("0.1666666667")
MINUTE = timedelta(minutes=1)
PER_MINUTE = st.decimals(0, 100, places=10)
DURATIONS = st.timedeltas(timedelta(0), timedelta(days=60))


def span(seconds: int, per_minute: Decimal | str) -> PricedSpan:
    return PricedSpan(seconds=seconds, credits_per_minute=Decimal(per_minute))


def version(effective_from: datetime, per_minute: Decimal | str = "0.1") -> PriceVersion:
    return PriceVersion(effective_from=effective_from, credits_per_minute=Decimal(per_minute))


@pytest.mark.parametrize(
    ("seconds", "cents"), [(0, 0), (1, 0), (2, 1), (60, 17), (90, 25), (360, 100), (361, 100), (363, 101), (3600, 1000)]
)
def test_the_default_rate_is_a_sixth_of_a_credit_a_minute(seconds: int, cents: int) -> None:
    assert price([span(seconds, SIXTH)]) == cents


def test_half_a_cent_rounds_up_where_floats_round_down() -> None:
    assert price([span(69, "0.5")]) == 58


def test_nothing_that_ran_costs_nothing() -> None:
    assert price([]) == 0


def test_spans_are_rounded_together_and_not_one_by_one() -> None:
    assert price([span(1, "0.2")] * 3) == 1
    assert price([span(1, "0.2")]) == 0


def test_an_exact_half_under_a_long_decimal_price_rounds_up() -> None:
    # 10**10 seconds at 3e-13 a minute are 0.00005 credits; at 3e-11 half a cent.
    assert price([span(10**10, "0.00000000003")]) == 1
    assert price([span(10**10 - 1, "0.00000000003")]) == 0


def test_a_negative_span_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 is not allowed"):
        price([span(5, "1"), span(-1, "1")])


@given(st.lists(st.builds(PricedSpan, seconds=st.integers(0, 10**9), credits_per_minute=PER_MINUTE), max_size=5))
def test_price_is_within_half_a_cent_of_exact(spans: list[PricedSpan]) -> None:
    exact = sum((Fraction(100, 60) * each.seconds * Fraction(each.credits_per_minute) for each in spans), Fraction(0))
    assert -Fraction(1, 2) < price(spans) - exact <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("until", "seconds"),
    [
        (6 * MINUTE, 360),
        (12 * MINUTE, 720),
        (timedelta(0), 0),
        (-HOUR, 0),
        (-timedelta(microseconds=1), 0),
        (timedelta(microseconds=499_999), 0),
        (timedelta(microseconds=500_000), 1),
        (timedelta(seconds=1, microseconds=499_999), 1),
        (timedelta(seconds=2, microseconds=500_000), 3),
    ],
)
def test_runtime_is_counted_to_the_nearest_second_and_never_below_zero(until: timedelta, seconds: int) -> None:
    assert elapsed_seconds(START, START + until) == seconds


def test_a_price_holds_from_its_instant_on() -> None:
    versions = [version(START - DAY, "0.1"), version(START + HOUR, "0.2")]
    assert split_at_prices(START, START + 2 * HOUR, versions) == [span(3600, "0.1"), span(3600, "0.2")]
    assert split_at_prices(START, START + HOUR, versions) == [span(3600, "0.1")]
    assert split_at_prices(START + HOUR, START + 2 * HOUR, versions) == [span(3600, "0.2")]


def test_a_session_before_the_first_price_is_refused() -> None:
    with pytest.raises(ValueError, match="no version is in force"):
        split_at_prices(START, START + HOUR, [version(START + timedelta(microseconds=1))])
    with pytest.raises(ValueError, match="no version is in force"):
        split_at_prices(START, START + HOUR, [])


def test_a_session_that_ended_before_it_started_has_no_span() -> None:
    assert split_at_prices(START, START - HOUR, [version(START - DAY)]) == []


@given(DURATIONS, st.lists(DURATIONS, max_size=6, unique=True))
def test_splitting_at_prices_sums_to_the_whole(duration: timedelta, changes: Sequence[timedelta]) -> None:
    versions = [version(START), *(version(START + change) for change in sorted(changes) if change)]
    spans = split_at_prices(START, START + duration, versions)
    assert sum(each.seconds for each in spans) == elapsed_seconds(START, START + duration)
    assert all(each.seconds >= 0 for each in spans)


@given(DURATIONS, DURATIONS, st.lists(DURATIONS, max_size=4, unique=True))
def test_a_longer_session_never_costs_less(one: timedelta, other: timedelta, changes: Sequence[timedelta]) -> None:
    steps = enumerate(sorted({timedelta(0), *changes}))
    versions = [version(START + change, Decimal(number % 3)) for number, change in steps]
    shorter, longer = sorted([one, other])
    assert price(split_at_prices(START, START + shorter, versions)) <= price(
        split_at_prices(START, START + longer, versions)
    )
