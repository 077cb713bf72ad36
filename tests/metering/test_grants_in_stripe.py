"""Grants lower Stripe's bill, and never pay usage that Stripe bills anyway."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.factories import DAY, HOUR, account_of, call, give, team
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.domain.cycles import add_months
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.grant_credits import list_grants
from usage_tasks.services.ledger.reset import settle_expired
from usage_tasks.services.metering.decide_reports import report_closing_quantity
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.tasks.billing import sync

ACCOUNT = team("one")
FIRST, SECOND = add_months(BEGIN, 1), add_months(BEGIN, 2)
MINUTE = timedelta(minutes=1)


def grant(bench: Bench, credits_given: int, *, at: datetime = BEGIN, **terms: Any) -> None:
    with bench.transaction() as connection:
        give(connection, credits_given * 100, at=at, attribution_id=ACCOUNT, **terms)


def settle(bench: Bench, at: datetime) -> None:
    with bench.transaction() as connection:
        settle_expired(connection, at=at)


def close(bench: Bench, period_end: datetime = FIRST) -> int:
    with bench.transaction() as connection:
        return report_closing_quantity(connection, ACCOUNT, period_end=period_end)


def moved(bench: Bench, at: datetime) -> list[tuple[int, list[tuple[str, int]]]]:
    """Return the rest of each grant in cents, the oldest first, and the movements that took the other part."""
    with bench.transaction() as connection:
        assert verify(connection, at=at).describe() == ""
        held = list_grants(connection, account_of(ACCOUNT), at=at)
    return [(each.remaining_cents, [(move.what, move.credit_cents) for move in each.movements]) for each in held[::-1]]


def finish(bench: Bench, period_end: datetime) -> None:
    """End a period, with every job running in time."""
    bench.world.advance(period_end)
    bench.receive_and_apply(period_end)
    bench.send()
    bench.world.advance(period_end + GRACE)
    bench.receive_and_apply(period_end + GRACE)
    bench.send()


@pytest.mark.holds("grants.stripe")
def test_a_grant_lowers_what_is_reported(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    grant(bench, 4)
    bench.use(ACCOUNT, 3, until=BEGIN + HOUR)
    assert bench.sync(BEGIN + HOUR) == 0
    bench.use(ACCOUNT, 7, until=BEGIN + 2 * HOUR)
    bench.sync(BEGIN + 2 * HOUR)
    assert [quantity for _, quantity, _ in bench.reports()] == [6]


def test_the_closing_quantity_is_what_grants_leave_and_their_rest_pays_the_next_month(bench: Bench) -> None:
    customer = bench.pay(ACCOUNT)
    grant(bench, 4)
    grant(bench, 9, effective_at=FIRST + DAY)
    bench.use(ACCOUNT, 10, until=FIRST - HOUR)
    finish(bench, FIRST)
    assert moved(bench, FIRST + GRACE) == [(0, [("burn", 400)]), (900, [])]
    bench.use(ACCOUNT, 5, until=FIRST + 2 * DAY)
    bench.sync_and_send(FIRST + 3 * DAY)
    finish(bench, SECOND)
    assert bench.world.billed_credits(customer) == [6]
    assert moved(bench, SECOND + GRACE) == [(0, [("burn", 400)]), (400, [("burn", 500)])]
    assert bench.balance(ACCOUNT, SECOND + GRACE) == 0


def test_what_is_above_the_cap_lapses_at_the_end_of_the_period(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    grant(bench, 10, rollover_cap_cents=200)
    bench.use(ACCOUNT, 3, until=FIRST - HOUR)
    finish(bench, FIRST)
    assert moved(bench, FIRST + GRACE) == [(200, [("burn", 300), ("rollover", 500)])]


def test_an_invoice_in_the_middle_of_a_cycle_lets_nothing_lapse(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    grant(bench, 10, rollover_cap_cents=200)
    bench.use(ACCOUNT, 3, until=BEGIN + DAY)
    assert close(bench, BEGIN + 2 * DAY) == 0
    assert moved(bench, BEGIN + 2 * DAY) == [(1000, [])]


def test_a_closing_that_is_asked_for_twice_burns_once_and_late_usage_is_paid_later(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    grant(bench, 4)
    bench.use(ACCOUNT, 3, until=FIRST - HOUR)
    close(bench)
    bench.use(ACCOUNT, 6, until=FIRST - HOUR)
    close(bench)
    assert moved(bench, FIRST) == [(100, [("burn", 300)])]
    assert bench.balance(ACCOUNT, FIRST) == 500


@pytest.mark.holds("grants.stripe")
def test_what_a_period_was_told_is_not_paid_by_a_grant_that_nobody_told_stripe_of(bench: Bench) -> None:
    customer = bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 10, until=FIRST - 3 * HOUR)
    bench.sync_and_send(FIRST - 2 * HOUR)
    grant(bench, 15, at=FIRST - HOUR)
    bench.use(ACCOUNT, 3, until=FIRST - 30 * MINUTE)
    bench.world.advance(FIRST + GRACE)  # nobody closes the period: Stripe bills the reported quantity
    bench.receive_and_apply(FIRST + GRACE)
    assert bench.world.billed_credits(customer) == [10]
    assert moved(bench, FIRST + GRACE) == [(1200, [("burn", 300)])]
    assert bench.balance(ACCOUNT, FIRST + GRACE) == 0


def test_a_closing_in_time_takes_back_what_its_period_was_told_before_the_grant(bench: Bench) -> None:
    customer = bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 10, until=FIRST - 3 * HOUR)
    bench.sync_and_send(FIRST - 2 * HOUR)
    grant(bench, 15, at=FIRST - HOUR, rollover_cap_cents=0)
    finish(bench, FIRST)
    assert bench.world.billed_credits(customer) == []
    assert moved(bench, FIRST + GRACE) == [(0, [("burn", 1000), ("rollover", 500)])]


def test_a_grant_of_the_hour_before_the_invoice_pays_only_what_is_new(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 10, until=FIRST - HOUR)
    bench.world.advance(FIRST)
    bench.receive_and_apply(FIRST)
    bench.send()
    grant(bench, 15, at=FIRST + 10 * MINUTE, expires_at=FIRST + 30 * MINUTE)
    bench.use(ACCOUNT, 2, until=FIRST + 20 * MINUTE)
    settle(bench, FIRST + 40 * MINUTE)
    bench.world.advance(FIRST + GRACE)
    bench.receive_and_apply(FIRST + GRACE)
    assert bench.invoice_entries(ACCOUNT) == [-1000]
    assert moved(bench, FIRST + GRACE) == [(0, [("burn", 200), ("expiry", 1300)])]
    assert bench.balance(ACCOUNT, FIRST + GRACE) == 0


def test_a_closing_that_is_late_does_not_pay_again_what_an_expiry_paid(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    grant(bench, 1, expires_at=FIRST + 10 * MINUTE)
    grant(bench, 100)
    bench.use(ACCOUNT, 5, until=FIRST - HOUR)
    settle(bench, FIRST + 20 * MINUTE)
    assert close(bench) == 0
    assert moved(bench, FIRST + HOUR) == [(0, [("burn", 100)]), (9600, [("burn", 400)])]
    assert bench.balance(ACCOUNT, FIRST) == bench.balance(ACCOUNT, FIRST + HOUR) == 0


def test_an_expiry_is_settled_before_the_invoice_that_comes_after_it(bench: Bench) -> None:
    customer = bench.pay(ACCOUNT)
    grant(bench, 4, expires_at=FIRST - 2 * DAY)
    bench.use(ACCOUNT, 3, until=FIRST - 3 * DAY)
    bench.use(ACCOUNT, 10, until=FIRST - DAY)
    finish(bench, FIRST)
    assert bench.world.billed_credits(customer) == [10]
    assert moved(bench, FIRST + GRACE) == [(0, [("burn", 300), ("expiry", 100)])]


def test_the_sync_job_settles_what_expired_before_it_reports(bench: Bench, rt: Runtime, broker: str) -> None:
    bench.pay(ACCOUNT)
    grant(bench, 4, expires_at=BEGIN + 2 * HOUR)
    bench.use(ACCOUNT, 10, until=BEGIN + HOUR)
    at = (BEGIN + 3 * HOUR).isoformat()
    assert [call(sync.sync_billing, at=at)["reports"] for _ in range(2)] == [1, 0]
    assert [quantity for _, quantity, _ in bench.reports()] == [6]
