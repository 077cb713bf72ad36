"""Three months of two paying accounts, day by day: Stripe and the ledger agree on every credit."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.factories import DAY, HOUR, team, user
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cycles import add_months
from usage_tasks.services.operations.verify_ledger import verify

MONTHS = 3
ACCOUNTS = (team("walk"), user("walk"))


def days(start: datetime, end: datetime) -> Iterator[datetime]:
    """Each noon of a period."""
    moment = start + 2 * HOUR
    while moment < end:
        yield moment
        moment += DAY


def sums(bench: Bench, account: AttributionId) -> Any:
    return bench.rows("SELECT * FROM account_balance WHERE attribution_id = :account", account=account)[0]


@pytest.mark.parametrize("prompt", [True, False], ids=["prompt", "an hour and more late"])
def test_what_stripe_bills_is_what_the_ledger_says_was_used(
    bench: Bench,
    prompt: bool,  # noqa: FBT001
) -> None:
    usage = random.Random(1)
    customers = {account: bench.pay(account) for account in ACCOUNTS}
    at_period_end: dict[AttributionId, list[int]] = {account: [] for account in ACCOUNTS}
    for month in range(MONTHS):
        start, end = add_months(BEGIN, month), add_months(BEGIN, month + 1)
        for noon in days(start, end):
            for account in ACCOUNTS:
                bench.use(account, Decimal(usage.randrange(0, 3000)) / 20, until=noon)
            bench.sync_and_send(noon)
        for account in ACCOUNTS:  # a session runs across the edge
            bench.use(account, Decimal(usage.randrange(0, 600)) / 20 + 70, until=end + HOUR, post=False)
        bench.world.advance(end)
        for account in ACCOUNTS:
            at_period_end[account].append(bench.balance(account, end))
        if prompt:
            bench.receive_and_apply(end)
            bench.sync_and_send(end + timedelta(minutes=30))
            bench.world.advance(end + GRACE)
            bench.receive_and_apply(end + GRACE)
            bench.send()
        else:  # nobody works until the draft has been finalized without its closing quantity
            bench.world.advance(end + GRACE + HOUR)
            bench.receive_and_apply(end + GRACE + HOUR)
            bench.sync_and_send(end + GRACE + HOUR)
    last = bench.now()
    for account in ACCOUNTS:
        bench.use(account, 1, until=last)  # posts the sessions that ran across the last edge
        billed = bench.world.billed_credits(customers[account])
        held = sums(bench, account)
        assert len(billed) == MONTHS
        assert bench.invoice_entries(account) == [-100 * quantity for quantity in billed]
        assert 100 * sum(billed) == held.invoiced_cents
        carried = bench.balance(account, last)
        assert held.used_cents == held.invoiced_cents + held.covered_cents + held.forgiven_cents + carried
        assert 0 < held.invoiced_cents <= held.used_cents + 100 * MONTHS
        if prompt:
            assert billed == [-(-cents // 100) for cents in at_period_end[account]]
        else:
            assert all(
                quantity * 100 <= cents + 99 for quantity, cents in zip(billed, at_period_end[account], strict=True)
            )
    with bench.transaction() as connection:
        assert verify(connection, at=last).clean


def test_usage_that_missed_its_invoice_is_on_the_next_once(bench: Bench) -> None:
    customer = bench.pay(ACCOUNTS[0])
    first, second = add_months(BEGIN, 1), add_months(BEGIN, 2)
    bench.use(ACCOUNTS[0], 10, until=first - DAY)
    bench.sync_and_send(first - HOUR)
    bench.use(ACCOUNTS[0], 4, until=first - timedelta(minutes=30))  # used after the last sync, and the closing fails
    bench.world.advance(first + GRACE)
    bench.receive_and_apply(first + GRACE)
    bench.sync_and_send(first + GRACE + HOUR)
    bench.world.advance(second + GRACE)
    bench.receive_and_apply(second + GRACE)
    assert bench.world.billed_credits(customer) == [10, 4]
    assert bench.balance(ACCOUNTS[0], second + GRACE) == 0


def test_an_invoice_that_nobody_heard_of_is_not_billed_again(bench: Bench) -> None:
    customer = bench.pay(ACCOUNTS[0])
    first, second = add_months(BEGIN, 1), add_months(BEGIN, 2)
    bench.use(ACCOUNTS[0], 10, until=first - DAY)
    bench.sync_and_send(first - HOUR)
    bench.sync_and_send(first + GRACE + HOUR)  # no event arrives, all month
    bench.world.advance(second + GRACE)
    assert sum(bench.world.billed_credits(customer)) == 10
