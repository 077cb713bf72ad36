import pytest

from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.limits import LimitState, limit_state


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
