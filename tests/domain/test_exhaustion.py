"""The second of exhaustion against the definition: at the limit then, below it a second earlier."""

from datetime import datetime, timedelta
from decimal import Decimal
from itertools import combinations_with_replacement
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories import DAY, HOUR, START
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.exhaustion import LOOK_AHEAD_MAX, Accrual, ceil_second, find_exhaustion, first_at_least
from usage_tasks.domain.rating import PriceVersion

SECOND: Final = timedelta(seconds=1)
EVER: Final = datetime(1970, 1, 1, tzinfo=START.tzinfo)
NEVER: Final = START + LOOK_AHEAD_MAX
OFFSETS = st.one_of(st.integers(-20, 200).map(lambda n: n * SECOND / 2), st.timedeltas(-DAY, 40 * DAY))
RATES = st.one_of(
    st.decimals(0, 100, places=10), st.sampled_from([Decimal(0), Decimal("0.1666666667"), Decimal("1e-9")])
)


def accrual(rate: object = 1, *, ended_at: datetime | None = None) -> Accrual:
    version = PriceVersion(effective_from=EVER, credits_per_minute=Decimal(str(rate)))
    return Accrual(started_at=START, ended_at=ended_at, versions=[version])


@st.composite
def accruals(draw: st.DrawFn) -> Accrual:
    edges = [EVER, *sorted(START + each for each in draw(st.lists(OFFSETS, max_size=3, unique=True)))]
    versions = [PriceVersion(effective_from=edge, credits_per_minute=draw(RATES)) for edge in edges]
    ended_at = draw(st.none() | OFFSETS.map(lambda offset: START + offset))
    return Accrual(started_at=START + draw(OFFSETS), ended_at=ended_at, versions=versions)


@pytest.mark.holds("limits.exhaustion")
@settings(max_examples=400, deadline=None)
@given(
    running=st.lists(accruals(), max_size=4),
    balance=st.integers(-20_000, 20_000),
    limit=st.one_of(st.integers(0, 300), st.integers(0, 10**7)),
    at=OFFSETS,
    span=st.one_of(st.integers(0, 100).map(lambda n: n * SECOND / 2), st.timedeltas(timedelta(0), 60 * DAY)),
)
def test_exhaustion_is_the_first_whole_second_at_the_limit(
    running: list[Accrual], balance: int, limit: int, at: timedelta, span: timedelta
) -> None:
    asked_at = START + at
    before = asked_at + span
    spent = sum(each.cents_until(asked_at) for each in running)

    def balance_at(instant: datetime) -> int:
        return balance - spent + sum(each.cents_until(instant) for each in running)

    found = find_exhaustion(running, balance=CreditCents(balance), limit_cents=limit, at=asked_at, before=before)
    if found is None:
        assert balance < limit
        last = ceil_second(before) - SECOND
        assert last < asked_at or balance_at(last) < limit
        return
    assert found.microsecond == 0
    assert asked_at <= found
    assert balance_at(found) >= limit
    earlier = found - SECOND
    assert earlier < asked_at or balance_at(earlier) < limit
    assert found < before or balance >= limit


def test_a_session_of_one_credit_a_minute_uses_up_ten_in_ten_minutes() -> None:
    found = find_exhaustion([accrual(1)], balance=CreditCents(0), limit_cents=1_000, at=START, before=NEVER)
    # Half a cent rounds up: the last cent is there after 599.7 seconds.
    assert found == START + 600 * SECOND


def test_a_later_price_counts_from_its_instant() -> None:
    versions = [
        PriceVersion(effective_from=EVER, credits_per_minute=Decimal(1)),
        PriceVersion(effective_from=START + HOUR, credits_per_minute=Decimal(2)),
    ]
    running = Accrual(started_at=START, ended_at=None, versions=versions)
    found = find_exhaustion([running], balance=CreditCents(0), limit_cents=18_000, at=START, before=NEVER)
    assert found == START + 2 * HOUR


@pytest.mark.holds("limits.exhaustion")
@pytest.mark.parametrize(
    "running",
    [[], [accrual(0)], [accrual(1, ended_at=START + 599 * SECOND)], [accrual("1e-15")]],
    ids=["nothing runs", "for free", "ends before", "too slow"],
)
def test_what_never_gets_there_has_no_instant(running: list[Accrual]) -> None:
    assert find_exhaustion(running, balance=CreditCents(0), limit_cents=1_000, at=START, before=NEVER) is None


def test_what_is_further_off_than_ten_years_is_never() -> None:
    day_cents = 24 * 60 * 100
    ten_years = 3_653
    ask = {"balance": CreditCents(0), "at": START, "before": START + 2 * ten_years * DAY}
    inside = find_exhaustion([accrual(1)], limit_cents=ten_years * day_cents - 2, **ask)  # type: ignore[arg-type]  # by name
    assert inside == START + ten_years * DAY - SECOND
    assert find_exhaustion([accrual(1)], limit_cents=ten_years * day_cents, **ask) is None  # type: ignore[arg-type]  # by name


def test_what_ends_exactly_at_the_limit_gets_there() -> None:
    running = [accrual(1, ended_at=START + 600 * SECOND)]
    found = find_exhaustion(running, balance=CreditCents(0), limit_cents=1_000, at=START, before=NEVER)
    assert found == START + 600 * SECOND


def test_a_course_that_ends_first_has_no_instant() -> None:
    reached = START + 600 * SECOND
    ask = {"balance": CreditCents(0), "limit_cents": 1_000, "at": START}
    assert find_exhaustion([accrual(1)], before=reached, **ask) is None  # type: ignore[arg-type]  # by name
    assert find_exhaustion([accrual(1)], before=reached + SECOND / 2, **ask) == reached  # type: ignore[arg-type]  # by name


@pytest.mark.holds("limits.exhaustion")
def test_a_limit_that_is_reached_already_is_exhausted_now() -> None:
    at = START + SECOND / 2
    assert find_exhaustion([], balance=CreditCents(0), limit_cents=0, at=at, before=at) == START + SECOND


@given(steps=st.lists(st.integers(0, 50), min_size=1, max_size=300), target=st.integers(-5, 4_000))
def test_the_first_of_a_rising_function_is_found(steps: list[int], target: int) -> None:
    values = [sum(steps[: n + 1]) for n in range(len(steps))]
    looks = []

    def rising(n: int) -> int:
        looks.append(n)
        return values[n]

    expected = next((n for n, value in enumerate(values) if value >= target), None)
    assert first_at_least(target, rising, last=len(values) - 1) == expected
    assert len({*looks}) == len(looks) or len(values) == 1


def test_every_short_rise_is_searched_to_its_end() -> None:
    for count in range(1, 6):
        for values in combinations_with_replacement(range(4), count):
            for target in range(5):
                expected = next((n for n, value in enumerate(values) if value >= target), None)
                assert first_at_least(target, values.__getitem__, last=count - 1) == expected


def test_what_is_there_from_the_first_is_found_there() -> None:
    assert first_at_least(5, lambda n: 5 + n, last=3) == 0
    assert first_at_least(5, lambda _: 5, last=0) == 0
    assert first_at_least(5, lambda _: 5, last=-1) is None


@pytest.mark.parametrize("start", [0, 10**7, -(10**9)])
def test_a_straight_line_takes_few_looks_and_none_twice(start: int) -> None:
    looks = []

    def line(n: int) -> int:
        looks.append(n)
        return start + 7 * n // 3

    assert first_at_least(start + 10**8, line, last=3 * 10**8) == -(-3 * 10**8 // 7)
    assert len(looks) <= 15
    assert len({*looks}) == len(looks)


def test_a_bent_line_takes_no_more_than_a_few_times_the_looks_of_halving() -> None:
    looks = []

    def bent(n: int) -> int:
        looks.append(n)
        return 0 if n < 2**29 + 1 else 2**60

    assert first_at_least(1, bent, last=2**30) == 2**29 + 1
    assert len(looks) <= 3 * 30 + 2
    assert len({*looks}) == len(looks)


def test_what_has_not_begun_costs_nothing_and_needs_no_price_yet() -> None:
    assert Accrual(started_at=START, ended_at=None, versions=[]).cents_until(START) == 0
