from decimal import Decimal

import pytest

from tests.factories import HOUR, START
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.rating import PER_SECOND, ChargeRule, PriceVersion, accrued, split


def prices(rule: ChargeRule = PER_SECOND) -> list[PriceVersion]:
    return [PriceVersion(effective_from=START, credits_per_minute=Decimal(1), rule=rule)]


@pytest.mark.parametrize(("hours", "cents"), [(-1, 0), (0, 0), (1, 6_000), (2, 12_000), (3, 12_000)])
def test_a_session_accrues_from_its_start_to_its_end(hours: int, cents: int) -> None:
    reached = accrued(START, START + 2 * HOUR, prices(), until=START + hours * HOUR)
    assert reached.credit_cents == cents
    assert reached.seconds * 100 == cents * 60


def test_a_session_that_runs_accrues_until_the_instant() -> None:
    assert accrued(START, None, prices(), until=START + 3 * HOUR).credit_cents == 18_000


@pytest.mark.holds("usage.split-minimum")
def test_each_part_is_what_came_to_it_and_a_minimum_comes_with_the_first() -> None:
    rule = ChargeRule(minimum_cents=CreditCents(7_000), rounding_seconds=1)
    parts = split(START, START + 2 * HOUR, prices(rule), [START + n * HOUR for n in range(-1, 4)])
    assert [(part.credit_cents, part.seconds) for part in parts] == [(0, 0), (7_000, 3600), (5_000, 3600), (0, 0)]


def test_a_price_that_is_not_there_at_the_start_is_an_error() -> None:
    with pytest.raises(ValueError, match="no version is in force"):
        accrued(START - HOUR, None, prices(), until=START)
