from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import DAY, LIMITS, START, account_of, team, user
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cost_centers import (
    SPENDING_LIMIT_MAX,
    BillingStrategy,
    change_limit,
    covered_by_reset,
    new_cost_center,
    switch_strategy,
)
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.cycles import Cycle, add_months
from usage_tasks.domain.errors import InvalidInputError

TEAM, USER = account_of(team()), account_of(user())


@pytest.mark.parametrize(("attribution_id", "limit"), [(team(), 500), (user(), 100)])
def test_a_new_account_gets_the_default_limit_of_its_kind_and_a_cycle_from_now(
    attribution_id: AttributionId, limit: int
) -> None:
    opened = new_cost_center(account_of(attribution_id), LIMITS, at=START)
    assert opened.attribution_id == attribution_id
    assert (opened.version, opened.billing_strategy, opened.spending_limit) == (1, BillingStrategy.OTHER, limit)
    assert (opened.cycle.started_at, opened.next_billing_at) == (START, add_months(START, 1))


def test_an_allowance_is_due_from_the_instant_on_that_its_cycle_ends() -> None:
    opened = new_cost_center(TEAM, LIMITS, at=START)
    ends_at = add_months(START, 1)
    assert not opened.is_due(ends_at - timedelta(microseconds=1))
    assert opened.is_due(ends_at)
    assert opened.is_due(ends_at + DAY)


def test_a_cycle_that_stripe_settles_is_never_due() -> None:
    paying = replace(new_cost_center(TEAM, LIMITS, at=START), billing_strategy=BillingStrategy.STRIPE)
    assert not paying.is_due(add_months(START, 2))


def test_a_new_limit_is_a_new_version_in_the_same_cycle() -> None:
    before = new_cost_center(TEAM, LIMITS, at=START)
    assert change_limit(before, TEAM, 7, LIMITS) == replace(before, version=2, spending_limit=7)


def test_a_switch_is_a_new_version_in_a_cycle_from_now() -> None:
    before = new_cost_center(TEAM, LIMITS, at=START)
    after = switch_strategy(before, TEAM, BillingStrategy.STRIPE, spending_limit=9, limits=LIMITS, at=START + DAY)
    assert (after.version, after.billing_strategy, after.spending_limit) == (2, BillingStrategy.STRIPE, 9)
    assert after.cycle == Cycle(anchor_at=START + DAY, number=0)


@pytest.mark.holds("cost-center.limit-below-0")
@pytest.mark.parametrize("limit", [-1, -(10**30), SPENDING_LIMIT_MAX + 1])
def test_a_limit_below_zero_or_beyond_the_largest_is_refused(limit: int) -> None:
    before = new_cost_center(TEAM, LIMITS, at=START)
    told = rf"^`spending_limit`: must be from 0 to 1000000000000 credits \(got {limit}\)$"
    with pytest.raises(InvalidInputError, match=told):
        change_limit(before, TEAM, limit, LIMITS)
    with pytest.raises(InvalidInputError, match=told):
        switch_strategy(before, TEAM, BillingStrategy.STRIPE, spending_limit=limit, limits=LIMITS, at=START)


@pytest.mark.parametrize("limit", [0, SPENDING_LIMIT_MAX])
def test_the_least_and_the_largest_limit_are_allowed(limit: int) -> None:
    assert change_limit(new_cost_center(TEAM, LIMITS, at=START), TEAM, limit, LIMITS).spending_limit == limit


def test_a_paying_individual_has_a_least_limit_and_a_team_has_none() -> None:
    limits = replace(LIMITS, min_for_users_on_stripe=1000)
    individual, organisation = new_cost_center(USER, limits, at=START), new_cost_center(TEAM, limits, at=START)
    stripe = BillingStrategy.STRIPE
    told = r"^`spending_limit`: must be at least 1000 for an individual on stripe \(got 999\)$"
    with pytest.raises(InvalidInputError, match=told):
        switch_strategy(individual, USER, stripe, spending_limit=999, limits=limits, at=START)
    paying = switch_strategy(individual, USER, stripe, spending_limit=1000, limits=limits, at=START)
    with pytest.raises(InvalidInputError, match=told):
        change_limit(paying, USER, 999, limits)
    assert change_limit(individual, USER, 999, limits).spending_limit == 999
    assert switch_strategy(organisation, TEAM, stripe, spending_limit=0, limits=limits, at=START).spending_limit == 0


@pytest.mark.holds("cost-center.reset")
@pytest.mark.parametrize(
    ("balance", "limit", "covered"),
    [
        (30_000, 500, 30_000),
        (50_000, 500, 50_000),
        (50_001, 500, 50_000),
        (1, 0, 0),
        (0, 500, 0),
        (-1, 500, 0),
        (-1, 0, 0),
    ],
)
def test_a_reset_covers_the_balance_up_to_the_limit(balance: int, limit: int, covered: int) -> None:
    assert covered_by_reset(CreditCents(balance), limit) == covered


@given(st.integers(-(10**12), 10**12), st.integers(0, 10**9))
def test_a_reset_never_turns_a_debt_into_a_credit(balance: int, limit: int) -> None:
    covered = covered_by_reset(CreditCents(balance), limit)
    assert 0 <= covered <= limit * 100
    assert balance - covered >= min(balance, 0)
