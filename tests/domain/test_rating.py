from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import DAY, HOUR, START
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.rating import (
    PER_SECOND,
    ChargeRule,
    PriceVersion,
    elapsed_seconds,
    rate,
    to_cents,
)

SIXTH = Decimal("0.1666666667")
MINUTE = timedelta(minutes=1)
PER_MINUTE = st.decimals(0, 100, places=10)
DURATIONS = st.timedeltas(timedelta(0), timedelta(days=60))
SHORT = st.integers(0, 400).map(lambda halves: timedelta(milliseconds=500 * halves))
RULES = st.builds(
    ChargeRule,
    minimum_cents=st.sampled_from([0, 1, 40]).map(CreditCents),
    rounding_seconds=st.sampled_from([1, 2, 7, 60, 3600]),
)
HISTORIES = st.dictionaries(SHORT, st.tuples(st.sampled_from([0, 1, 9]).map(Decimal), RULES), max_size=5)


Span = tuple[int, Decimal]


def span(seconds: int, per_minute: Decimal | str) -> Span:
    return seconds, Decimal(per_minute)


def price(spans: Sequence[Span]) -> int:
    """Return the cents of seconds at prices, rounded once."""
    return to_cents(sum((seconds * Fraction(per_minute) for seconds, per_minute in spans), Fraction(0)))


def spans_of(started_at: datetime, ended_at: datetime, versions: Sequence[PriceVersion]) -> list[Span]:
    return [(each.seconds, each.version.credits_per_minute) for each in rate(started_at, ended_at, versions).spans]


def version(effective_from: datetime, per_minute: Decimal | str = "0.1", rule: ChargeRule = PER_SECOND) -> PriceVersion:
    return PriceVersion(effective_from=effective_from, credits_per_minute=Decimal(per_minute), rule=rule)


def charge(minimum_cents: int = 0, step: int = 1) -> ChargeRule:
    return ChargeRule(minimum_cents=CreditCents(minimum_cents), rounding_seconds=step)


@pytest.mark.holds("numbers.default-rate")
@pytest.mark.parametrize(
    ("seconds", "exact", "cents"),
    [
        (0, Fraction(0), 0),
        (1, Fraction(1, 360), 0),
        (2, Fraction(2, 360), 1),
        (60, Fraction(1, 6), 17),
        (90, Fraction(1, 4), 25),
        (360, Fraction(1), 100),
        (361, 1 + Fraction(1, 360), 100),
        (363, 1 + Fraction(3, 360), 101),
        (3600, Fraction(10), 1000),
    ],
)
def test_the_default_rate_is_a_sixth_of_a_credit_a_minute(seconds: int, exact: Fraction, cents: int) -> None:
    rating = rate(START, START + timedelta(seconds=seconds), [version(START, SIXTH)])
    assert abs(rating.exact / 60 - exact) < Fraction(1, 10**6)  # the price is a sixth to ten places
    assert rating.credit_cents == cents


@pytest.mark.holds("numbers.rounding")
def test_half_a_cent_rounds_up_where_floats_round_down() -> None:
    assert price([span(69, "0.5")]) == 58
    assert price([span(63, "0.5")]) == 53  # 52.5: half to even would be 52


def test_nothing_that_ran_costs_nothing() -> None:
    assert price([]) == 0


@pytest.mark.holds("numbers.rounding")
def test_spans_are_rounded_together_and_not_one_by_one() -> None:
    assert price([span(1, "0.2")] * 3) == 1
    assert price([span(1, "0.2")]) == 0


def test_an_exact_half_under_a_long_decimal_price_rounds_up() -> None:
    # 10**10 seconds at 3e-13 a minute are 0.00005 credits; at 3e-11 half a cent.
    assert price([span(10**10, "0.00000000003")]) == 1
    assert price([span(10**10 - 1, "0.00000000003")]) == 0


@pytest.mark.holds("numbers.rounding")
@given(st.lists(st.tuples(st.integers(0, 10**9), PER_MINUTE), max_size=5))
def test_price_is_within_half_a_cent_of_exact(spans: list[Span]) -> None:
    exact = sum((Fraction(100, 60) * seconds * Fraction(per_minute) for seconds, per_minute in spans), Fraction(0))
    assert -Fraction(1, 2) < price(spans) - exact <= Fraction(1, 2)


@pytest.mark.holds("numbers.runtime")
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


@pytest.mark.holds("numbers.past-price")
def test_a_price_holds_from_its_instant_on() -> None:
    versions = [version(START - DAY, "0.1"), version(START + HOUR, "0.2")]
    assert spans_of(START, START + 2 * HOUR, versions) == [span(3600, "0.1"), span(3600, "0.2")]
    assert spans_of(START, START + HOUR, versions) == [span(3600, "0.1")]
    assert spans_of(START + HOUR, START + 2 * HOUR, versions) == [span(3600, "0.2")]


def test_a_session_before_the_first_price_is_refused() -> None:
    with pytest.raises(ValueError, match="no version is in force"):
        spans_of(START, START + HOUR, [version(START + timedelta(microseconds=1))])
    with pytest.raises(ValueError, match="no version is in force"):
        spans_of(START, START + HOUR, [])


@pytest.mark.holds("numbers.runtime")
def test_a_session_that_ended_before_it_started_has_no_span() -> None:
    assert spans_of(START, START - HOUR, [version(START - DAY)]) == []


@given(DURATIONS, st.lists(DURATIONS, max_size=6, unique=True))
def test_splitting_at_prices_sums_to_the_whole(duration: timedelta, changes: Sequence[timedelta]) -> None:
    versions = [version(START), *(version(START + change) for change in sorted(changes) if change)]
    spans = spans_of(START, START + duration, versions)
    assert sum(seconds for seconds, _ in spans) == elapsed_seconds(START, START + duration)
    assert all(seconds >= 0 for seconds, _ in spans)


@given(DURATIONS, DURATIONS, st.lists(DURATIONS, max_size=4, unique=True))
def test_a_longer_session_never_costs_less(one: timedelta, other: timedelta, changes: Sequence[timedelta]) -> None:
    steps = enumerate(sorted({timedelta(0), *changes}))
    versions = [version(START + change, Decimal(number % 3)) for number, change in steps]
    shorter, longer = sorted([one, other])
    assert price(spans_of(START, START + shorter, versions)) <= price(spans_of(START, START + longer, versions))


def history(first: ChargeRule, changes: dict[timedelta, tuple[Decimal, ChargeRule]]) -> list[PriceVersion]:
    later = [version(START + change, *changes[change]) for change in sorted(changes)]
    return [version(START - DAY, "0.5", first), *later]


@pytest.mark.holds("numbers.minimum-and-step")
@pytest.mark.parametrize(
    ("seconds", "charged", "cents"), [(0, 0, 0), (1, 60, 50), (59, 60, 50), (60, 60, 50), (61, 120, 100)]
)
def test_a_step_that_has_begun_is_charged_whole(seconds: int, charged: int, cents: int) -> None:
    rating = rate(START, START + timedelta(seconds=seconds), [version(START, "0.5", charge(step=60))])
    assert (rating.runtime_seconds, sum(each.seconds for each in rating.spans)) == (seconds, charged)
    assert rating.credit_cents == cents


@pytest.mark.holds("numbers.minimum-and-step")
@pytest.mark.parametrize(("milliseconds", "cents"), [(0, 0), (499, 0), (500, 25), (31_000, 26)])
def test_the_minimum_is_charged_from_the_first_second_on(milliseconds: int, cents: int) -> None:
    rating = rate(START, START + timedelta(milliseconds=milliseconds), [version(START, "0.5", charge(25))])
    assert rating.credit_cents == cents


@pytest.mark.holds("numbers.minimum-and-step")
@pytest.mark.parametrize(("seconds", "per_minute", "cents"), [(0, "0.5", 0), (1, "0.5", 50), (1, "0.1", 25)])
def test_a_step_and_a_minimum_hold_together(seconds: int, per_minute: str, cents: int) -> None:
    versions = [version(START, per_minute, charge(25, 60))]
    assert rate(START, START + timedelta(seconds=seconds), versions).credit_cents == cents


def test_the_minimum_holds_where_the_price_is_nothing() -> None:
    rating = rate(START, START + HOUR, [version(START, "0", charge(25))])
    assert (rating.metered_cents, rating.credit_cents) == (0, 25)


@pytest.mark.holds("numbers.minimum-and-step")
def test_a_step_is_charged_at_the_price_in_force_as_it_begins() -> None:
    versions = [version(START, "0.5", charge(step=60)), version(START + timedelta(seconds=90), "1")]
    spans = rate(START, START + timedelta(seconds=125), versions).spans
    assert [(each.seconds, each.version.credits_per_minute) for each in spans] == [(120, Decimal("0.5")), (60, 1)]


@pytest.mark.holds("numbers.minimum-and-step")
def test_step_and_minimum_are_those_of_the_version_at_the_start() -> None:
    versions = [version(START, "0.5"), version(START + MINUTE, "0.5", charge(900, 3600))]
    assert rate(START, START + 2 * MINUTE, versions).credit_cents == 100
    assert rate(START + MINUTE, START + 2 * MINUTE, versions).credit_cents == 3000
    assert rate(START + MINUTE, START + MINUTE, versions).credit_cents == 0


@given(SHORT, RULES, HISTORIES)
def test_the_seconds_charged_sum_to_the_runtime_rounded_up(
    duration: timedelta, first: ChargeRule, changes: dict[timedelta, tuple[Decimal, ChargeRule]]
) -> None:
    rating = rate(START, START + duration, history(first, changes))
    charged = sum(each.seconds for each in rating.spans)
    assert charged % rating.rule.rounding_seconds == 0
    assert 0 <= charged - rating.runtime_seconds < rating.rule.rounding_seconds
    assert all(each.seconds >= 0 for each in rating.spans)
    assert rating.credit_cents >= (rating.rule.minimum_cents if rating.runtime_seconds else 0)


@given(SHORT, SHORT, RULES, HISTORIES)
def test_a_price_never_falls_as_a_session_runs(
    one: timedelta, other: timedelta, first: ChargeRule, changes: dict[timedelta, tuple[Decimal, ChargeRule]]
) -> None:
    shorter, longer = sorted([one, other])
    versions = history(first, changes)
    before, after = (rate(START, START + duration, versions).credit_cents for duration in (shorter, longer))
    assert before <= after


@given(SHORT, RULES, HISTORIES)
def test_no_version_later_than_the_end_has_a_say(
    duration: timedelta, first: ChargeRule, changes: dict[timedelta, tuple[Decimal, ChargeRule]]
) -> None:
    known = {change: value for change, value in changes.items() if change <= duration}
    assert (
        rate(START, START + duration, history(first, changes)).credit_cents
        == rate(START, START + duration, history(first, known)).credit_cents
    )


@given(SHORT, HISTORIES)
def test_without_steps_and_minimums_it_is_the_price_of_the_seconds(
    duration: timedelta, changes: dict[timedelta, tuple[Decimal, ChargeRule]]
) -> None:
    plain = {change: (per_minute, PER_SECOND) for change, (per_minute, _) in changes.items()}
    versions = history(PER_SECOND, plain)
    whole = elapsed_seconds(START, START + duration)
    edges = [elapsed_seconds(START, max(START, each.effective_from)) for each in versions]
    each_second = [
        versions[max(number for number, edge in enumerate(edges) if edge <= second)].credits_per_minute
        for second in range(whole)
    ]
    assert rate(START, START + duration, versions).credit_cents == price([span(1, each) for each in each_second])
