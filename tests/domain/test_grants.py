from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.factories import DAY, HOUR, START, team
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.cycles import Cycle, add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.grants import GrantTerms, LapseReason, OpenGrant, check_terms, next_settlement, pay_now, settle

LATER = START + DAY
TICK = timedelta(microseconds=1)
MONTH = add_months(START, 1)


def granted(number: int = 1, cents: int = 100, **terms: Any) -> OpenGrant:
    values: dict[str, Any] = {"priority": 0, "effective_at": START, "expires_at": None, "rollover_cap_cents": None}
    return OpenGrant(attribution_id=team(), number=number, remaining_cents=CreditCents(cents), **(values | terms))


def burnt(grants: list[OpenGrant], cents: int, *, at: datetime = LATER) -> list[tuple[int, int]]:
    return [(burn.grant.number, burn.burnt_cents) for burn in settle(grants, cents, at=at, ends_cycle=False)]


def lapsed(
    grant: OpenGrant, cents: int, *, at: datetime = LATER, ends_cycle: bool = False
) -> tuple[int, int, int, str]:
    (burn,) = settle([grant], cents, at=at, ends_cycle=ends_cycle)
    return burn.burnt_cents, burn.lapsed_cents, burn.left_cents, burn.reason


@pytest.mark.holds("grants.burn-order")
def test_priority_comes_before_expiry_and_expiry_before_creation() -> None:
    grants = [
        granted(1, 10, priority=1, expires_at=START + 2 * DAY),
        granted(2, 10),
        granted(3, 10, expires_at=START + 3 * DAY),
        granted(4, 10, expires_at=START + 2 * DAY),
        granted(5, 10, expires_at=START + 3 * DAY),
    ]
    assert burnt(grants, 45) == [(4, 10), (3, 10), (5, 10), (2, 10), (1, 5)]


@pytest.mark.parametrize(("cents", "paid"), [(-5, 0), (0, 0), (1, 1), (100, 100), (101, 100)])
def test_a_grant_pays_what_is_open_and_no_more_than_it_has(cents: int, paid: int) -> None:
    assert burnt([granted()], cents) == [(1, paid)]


def test_a_grant_that_takes_effect_at_the_instant_belongs_to_what_follows() -> None:
    assert burnt([granted(effective_at=LATER)], 10) == []
    assert lapsed(granted(effective_at=START), 10) == (10, 0, 90, LapseReason.ROLLOVER)


def test_one_instant_is_paid_once() -> None:
    assert burnt([granted(1, burnt_at=[LATER]), granted(2)], 10) == [(1, 0), (2, 10)]


@pytest.mark.holds("grants.expiry")
def test_what_expires_pays_first_and_lapses() -> None:
    assert lapsed(granted(expires_at=LATER), 30) == (30, 70, 0, LapseReason.EXPIRY)
    assert lapsed(granted(expires_at=LATER + HOUR), 30) == (30, 0, 70, LapseReason.ROLLOVER)


@pytest.mark.holds("grants.cycle-end")
@pytest.mark.parametrize(("cap", "kept"), [(None, 70), (0, 0), (50, 50), (70, 70), (99, 70)])
def test_only_the_cap_rolls_over_where_a_cycle_ends(cap: int | None, kept: int) -> None:
    grant = granted(rollover_cap_cents=cap)
    assert lapsed(grant, 30, ends_cycle=True) == (30, 70 - kept, kept, LapseReason.ROLLOVER)
    assert lapsed(grant, 30) == (30, 0, 70, LapseReason.ROLLOVER)


@pytest.mark.holds("grants.in-force")
def test_what_would_be_paid_now_needs_a_grant_in_force() -> None:
    grants = [
        granted(1, effective_at=LATER),
        granted(2, effective_at=LATER + HOUR),
        granted(3, expires_at=LATER),
        granted(4, 50, burnt_at=[LATER, LATER + TICK]),
    ]
    assert [(burn.grant.number, burn.burnt_cents) for burn in pay_now(grants, 120, at=LATER)] == [(1, 100), (4, 20)]


def test_what_would_be_paid_now_lets_nothing_lapse() -> None:
    (burn,) = pay_now([granted(rollover_cap_cents=0, expires_at=LATER + 2 * TICK)], 30, at=LATER)
    assert (burn.burnt_cents, burn.lapsed_cents, burn.left_cents) == (30, 0, 70)


def center(strategy: BillingStrategy) -> CostCenter:
    cycle = Cycle(anchor_at=START, number=0)
    return CostCenter(attribution_id=team(), version=1, billing_strategy=strategy, spending_limit=1, cycle=cycle)


def test_the_earliest_instant_is_next_and_a_tie_is_one_settlement() -> None:
    grants = [granted(1), granted(2, expires_at=LATER), granted(3, expires_at=MONTH)]
    first = next_settlement(center(BillingStrategy.OTHER), grants, by=MONTH)
    assert first is not None
    assert (first.attribution_id, first.at, first.ends_cycle) == (team(), LATER, False)
    assert first.told_until == LATER
    tied = next_settlement(center(BillingStrategy.OTHER), [grants[2]], by=MONTH)
    assert tied is not None
    assert (tied.at, tied.ends_cycle) == (MONTH, True)


def test_nothing_is_next_before_its_time_nor_a_cycle_that_stripe_ends() -> None:
    assert next_settlement(center(BillingStrategy.OTHER), [granted(expires_at=LATER)], by=LATER - HOUR) is None
    assert next_settlement(center(BillingStrategy.STRIPE), [granted()], by=MONTH) is None


TERMS: dict[str, Any] = {
    "attribution_id": team(),
    "key": "key",
    "amount_cents": 1,
    "priority": 0,
    "effective_at": START,
    "expires_at": LATER,
    "rollover_cap_cents": 0,
    "description": "terms",
}


@pytest.mark.holds("grants.terms")
@pytest.mark.parametrize(
    "edge",
    [{}, {"priority": 100}, {"rollover_cap_cents": None}, {"expires_at": None}, {"expires_at": START + HOUR + TICK}],
)
def test_terms_that_can_pay_are_taken(edge: dict[str, Any]) -> None:
    check_terms(GrantTerms(**(TERMS | edge)), at=START + HOUR)


@pytest.mark.holds("grants.terms")
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"amount_cents": 0}, "`amount`: must be above 0 cents (a charge is a credit note) (got 0)"),
        ({"amount_cents": -1}, "`amount`: must be above 0 cents (a charge is a credit note) (got -1)"),
        ({"priority": -1}, "`priority`: must be from 0 to 100 (got -1)"),
        ({"priority": 101}, "`priority`: must be from 0 to 100 (got 101)"),
        ({"rollover_cap_cents": -1}, "`rollover_cap`: must be 0 cents or more (got -1)"),
        (
            {"expires_at": START + HOUR},
            "`expires_at`: must be later than 2026-01-01T01:00:00+00:00 (got '2026-01-01T01:00:00+00:00')",
        ),
        (
            {"effective_at": LATER, "expires_at": LATER},
            "`expires_at`: must be later than 2026-01-02T00:00:00+00:00 (got '2026-01-02T00:00:00+00:00')",
        ),
    ],
)
def test_terms_that_can_never_pay_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_terms(GrantTerms(**(TERMS | wrong)), at=START + HOUR)
    assert str(refused.value) == told
