"""A month billed while Stripe fails in every way: invoices, usage and ledger agree."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.faults.month_of_faults import BEGIN, FAULTS, Month, sessions_of_month
from tests.stripe_world.bench import Bench
from tests.stripe_world.world import StripeWorld, stripe_world


@pytest.fixture
def world() -> Iterator[StripeWorld]:
    with stripe_world(BEGIN) as running:
        yield running


def test_invoices_of_a_month_under_faults_equal_the_ledger_to_the_credit(bench: Bench) -> None:
    month = Month(bench, sessions_of_month(4), seed=7)
    result = month.live(tick=timedelta(days=2))
    assert result.differences == []
    assert (result.invoices, result.sessions > 1000, result.credits > 1000) == (4, True, True)
    assert set(FAULTS) | {"told later", "webhook never came", "webhook late", "webhook twice"} <= set(result.injected)
