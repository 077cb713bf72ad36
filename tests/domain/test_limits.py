import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.limits import (
    Crossing,
    EntitlementReason,
    HardLimitGrace,
    LimitPolicy,
    LimitState,
    check_thresholds,
    hard_limit_cents,
    judge,
    limit_cents,
    limit_state,
    list_levels,
    reached_levels,
    remaining_cents,
)

STRICT = HardLimitGrace()
TENTH = HardLimitGrace(percent=10)
FIFTY = HardLimitGrace(credits=50)
OK, WITHIN, HARD, *_ = EntitlementReason


@pytest.mark.holds("limits.states")
@pytest.mark.parametrize(
    ("balance", "limit", "state"),
    [
        (2_000, 100, LimitState.BELOW),
        (8_000, 100, LimitState.BELOW),
        (8_001, 100, LimitState.ALMOST),
        (9_000, 100, LimitState.ALMOST),
        (9_999, 100, LimitState.ALMOST),
        (10_000, 100, LimitState.REACHED),
        (12_000, 100, LimitState.REACHED),
        (0, 0, LimitState.REACHED),
        (1, 0, LimitState.REACHED),
        (0, 1, LimitState.BELOW),
        (-5_000, 100, LimitState.BELOW),
    ],
)
def test_a_balance_is_below_almost_at_or_at_its_limit(balance: int, limit: int, state: LimitState) -> None:
    assert limit_state(CreditCents(balance), limit) is state


@pytest.mark.holds("limits.hard-limit")
@pytest.mark.parametrize(
    ("limit", "grace", "cents"),
    [
        (100, STRICT, 10_000),
        (100, TENTH, 11_000),
        (7, TENTH, 770),
        (100, FIFTY, 15_000),
        (0, TENTH, 0),
        (0, FIFTY, 5_000),
    ],
)
def test_the_hard_limit_is_the_limit_and_its_grace(limit: int, grace: HardLimitGrace, cents: int) -> None:
    assert hard_limit_cents(limit, grace) == cents


@pytest.mark.holds("limits.hard-limit")
@pytest.mark.parametrize(
    ("balance", "limit", "grace", "reason"),
    [
        (9_999, 100, STRICT, OK),
        (10_000, 100, STRICT, HARD),
        (9_999, 100, TENTH, OK),
        (10_000, 100, TENTH, WITHIN),
        (10_999, 100, TENTH, WITHIN),
        (11_000, 100, TENTH, HARD),
        (0, 0, STRICT, HARD),
        (-1, 0, STRICT, OK),
        (0, 0, FIFTY, WITHIN),
        (4_999, 0, FIFTY, WITHIN),
        (5_000, 0, FIFTY, HARD),
    ],
)
def test_only_the_hard_limit_bars_a_start(
    balance: int, limit: int, grace: HardLimitGrace, reason: EntitlementReason
) -> None:
    judged = judge(CreditCents(balance), limit, grace)
    assert judged is reason
    assert judged.may_start is (reason is not HARD)


def levels(*args: object) -> list[tuple[Crossing, int | None, int]]:
    return [(each.crossing, each.percent, each.level_cents) for each in list_levels(*args)]  # type: ignore[arg-type]  # as given


def test_levels_are_announced_from_below_and_the_limit_always_is() -> None:
    assert levels(200, (80, 50, 120, 100), TENTH) == [
        (Crossing.THRESHOLD, 50, 10_000),
        (Crossing.THRESHOLD, 80, 16_000),
        (Crossing.LIMIT, 100, 20_000),
        (Crossing.HARD_LIMIT, 110, 22_000),
        (Crossing.THRESHOLD, 120, 24_000),
    ]
    assert levels(200, (), STRICT) == [(Crossing.LIMIT, 100, 20_000), (Crossing.HARD_LIMIT, 100, 20_000)]


def test_a_limit_of_one_credit_has_parts_and_a_part_of_a_percent_is_cut_off() -> None:
    assert levels(1, (50,), STRICT)[0] == (Crossing.THRESHOLD, 50, 50)
    assert levels(3, (), HardLimitGrace(credits=1))[-1] == (Crossing.HARD_LIMIT, 133, 400)


@pytest.mark.holds("limits.thresholds")
def test_a_limit_of_zero_has_no_parts() -> None:
    assert levels(0, (50, 80), FIFTY) == [(Crossing.LIMIT, 100, 0), (Crossing.HARD_LIMIT, None, 5_000)]


@pytest.mark.holds("limits.hard-limit")
@given(
    balance=st.integers(-(10**6), 10**6),
    limit=st.integers(0, 5_000),
    thresholds=st.lists(st.integers(1, 1000), max_size=10),
    grace=st.builds(HardLimitGrace, credits=st.integers(0, 100), percent=st.integers(0, 100)),
)
def test_a_start_is_barred_exactly_when_the_hard_limit_is_announced(
    balance: int, limit: int, thresholds: list[int], grace: HardLimitGrace
) -> None:
    cents = CreditCents(balance)
    told = {level.crossing for level in reached_levels(cents, limit, thresholds, grace)}
    reason = judge(cents, limit, grace)
    assert (Crossing.HARD_LIMIT in told) is (reason is HARD)
    assert (Crossing.LIMIT in told) is (reason is not OK)
    assert (Crossing.LIMIT in told) is (limit_state(cents, limit) is LimitState.REACHED)
    assert (Crossing.LIMIT in told) is (remaining_cents(cents, limit) <= 0)


def test_an_installation_that_says_nothing_warns_at_half_four_fifths_and_the_whole_and_gives_no_grace() -> None:
    policy = LimitPolicy()
    assert policy.thresholds == (50, 80, 100)
    assert hard_limit_cents(100, policy.grace) == limit_cents(100) == 10_000


def test_thresholds_are_kept_in_rising_order_each_once() -> None:
    assert check_thresholds([80, 1, 1000, 80]) == (1, 80, 1000)
    assert check_thresholds([]) == ()
    assert check_thresholds(range(1, 11)) == tuple(range(1, 11))


@pytest.mark.parametrize("thresholds", [[0], [-1], [1001], list(range(1, 12))])
def test_thresholds_that_are_not_allowed_are_refused(thresholds: list[int]) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_thresholds(thresholds)
    assert str(refused.value) == f"`thresholds`: must be at most 10 whole percents from 1 to 1000 (got {thresholds})"
