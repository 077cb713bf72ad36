from datetime import timedelta
from typing import Any

import pytest

from tests.factories import DAY, HOUR, team
from tests.stripe_world.bench import Bench, Wrapped, at_once
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.domain.payments import StripeInvoiceId
from usage_tasks.runtime import Runtime
from usage_tasks.services.payments import reconcile_invoices as reconciling
from usage_tasks.services.payments.reconcile_invoices import Reconciled, plan_reconciliation, reconcile_invoices
from usage_tasks.tasks.billing import invoices as tasks

ACCOUNT, OTHER = team("one"), team("other")
FIRST = add_months(BEGIN, 1) + GRACE
SECOND = add_months(BEGIN, 2) + GRACE


def lost(bench: Bench, *accounts: Any) -> list[str]:
    """Accounts that paid for two months, without an event received; return the invoices, oldest first."""
    for account in accounts:
        bench.customer(account)
        bench.subscription(account)
        bench.use(account, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FIRST)
    for account in accounts:
        bench.use(account, 5, until=FIRST + HOUR)
    bench.sync_and_send(FIRST + 2 * HOUR)
    bench.world.advance(SECOND)
    return [invoice.id for invoice in bench.world.invoices()]


class Refusing(Wrapped):
    """The real gateway, except that fetching one invoice fails."""

    def __init__(self, bench: Bench, invoice_id: str, error: Exception) -> None:
        super().__init__(bench.stripe)
        self.invoice_id, self.error = invoice_id, error

    def get_invoice(self, invoice_id: StripeInvoiceId) -> Any:
        if invoice_id == self.invoice_id:
            raise self.error
        return self._stripe.get_invoice(invoice_id)


@pytest.mark.holds("inbox.clock-ahead")
def test_a_clock_of_ours_that_is_days_ahead_hides_no_invoice(bench: Bench) -> None:
    ahead = 10 * DAY
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    assert reconcile_invoices(bench.context(BEGIN + 29 * DAY + ahead)).finished
    bench.world.advance(FIRST)
    reconcile_invoices(bench.context(FIRST + ahead))
    assert bench.invoice_entries(ACCOUNT) == [-1200]


@pytest.mark.holds("lesson.lost-enqueue")
def test_every_invoice_whose_event_never_came_is_booked_once_and_in_order(bench: Bench) -> None:
    lost(bench, ACCOUNT)
    done = reconcile_invoices(bench.context(SECOND))
    assert (done.fetched, done.entries, done.invoiced_cents, done.failed, done.finished) == (3, 3, 1700, (), True)
    assert bench.invoice_entries(ACCOUNT) == [-1200, -500]
    assert bench.rows("SELECT next_billing_at FROM cost_center WHERE superseded_at IS NULL")[0][0] == add_months(
        BEGIN, 3
    )
    assert bench.verified(SECOND).clean
    again = reconcile_invoices(bench.context(SECOND + HOUR))
    assert (again.fetched, again.entries) == (0, 0)  # nothing differs: one list, no invoice fetched


@pytest.mark.holds("stripe.invoice-once")
def test_a_webhook_and_reconciliation_at_once_book_an_invoice_once(bench: Bench) -> None:
    lost(bench, ACCOUNT)
    bench.receive(types="")
    at_once(lambda: bench.handle_all(SECOND), *[lambda: reconcile_invoices(bench.context(SECOND))] * 2)
    bench.handle_all(SECOND)
    reconcile_invoices(bench.context(SECOND + HOUR))
    assert bench.invoice_entries(ACCOUNT) == [-1200, -500]
    assert bench.verified(SECOND).clean


@pytest.mark.holds("stripe.foreign-subscription")
def test_invoices_of_foreign_subscriptions_are_left_alone(bench: Bench) -> None:
    customer, seat = bench.pay(ACCOUNT), bench.world.flat_price()
    bench.world.v1.subscriptions.create({"customer": customer, "items": [{"price": seat, "quantity": 7}]})
    done = reconcile_invoices(bench.context(BEGIN, our_prices=frozenset({seat})))
    assert (done.fetched, bench.invoice_entries(ACCOUNT)) == (0, [])


def test_one_that_fails_holds_up_no_other_account_and_is_looked_at_again_however_old(bench: Bench) -> None:
    broken = next(i for i in lost(bench, ACCOUNT, OTHER)[2:] if i in first_full_invoices(bench))
    refused = Refusing(bench, broken, PermanentError("odd"))
    done = reconcile_invoices(bench.context(SECOND, refused))
    assert (done.failed, done.retried, done.entries) == ([(broken, "odd")], 1, 4)  # its successor waits for it
    late = SECOND + 60 * DAY
    bench.world.advance(SECOND + 20 * DAY)
    reconcile_invoices(bench.context(late, refused))
    healed = reconcile_invoices(bench.context(late + HOUR))
    assert (healed.entries, healed.failed, healed.retried) == (2, (), 0)
    assert bench.invoice_entries(ACCOUNT) == bench.invoice_entries(OTHER) == [-1200, -500]


def first_full_invoices(bench: Bench) -> set[str]:
    return {invoice.id for invoice in bench.world.invoices() if invoice.period_end == int((FIRST - GRACE).timestamp())}


def test_a_long_list_is_walked_in_bounded_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    lost(bench, ACCOUNT)
    monkeypatch.setattr(reconciling, "PAGE", 1)
    runs = [reconcile_invoices(bench.context(SECOND), pages=1) for _ in range(3)]
    assert [(run.finished, run.goes_on) for run in runs] == [(False, True), (False, True), (True, False)]
    assert bench.invoice_entries(ACCOUNT) == [-1200]  # the newest came first and was postponed
    reconcile_invoices(bench.context(SECOND), pages=10)
    assert bench.invoice_entries(ACCOUNT) == [-1200, -500]


def test_when_stripe_is_away_a_run_ends_early_and_the_next_one_finds_all(bench: Bench) -> None:
    lost(bench, ACCOUNT, OTHER)

    class Away(Wrapped):
        def get_invoice(self, invoice_id: StripeInvoiceId) -> Any:
            raise RetryableError(invoice_id)

    done = reconcile_invoices(bench.context(SECOND, Away(bench.stripe)))
    assert (done.retried, done.fetched, done.goes_on) == (3, 0, False)
    assert reconcile_invoices(bench.context(SECOND)).entries == 6


def test_what_may_still_change_is_looked_at_again(bench: Bench) -> None:
    bench.world.decline(bench.pay(ACCOUNT))
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FIRST)
    bench.handle_all(FIRST)
    bench.world.advance(FIRST + 20 * DAY)  # the list progress is far behind it
    reconcile_invoices(bench.context(FIRST + 20 * DAY))
    bench.world.v1.invoices.void_invoice(bench.world.invoices()[-1].id)
    assert reconcile_invoices(bench.context(FIRST + 20 * DAY)) == Reconciled()
    bench.execute("UPDATE stripe_invoice SET checked_at = checked_at - interval '1 day'")
    assert reconcile_invoices(bench.context(FIRST + 20 * DAY)).entries == 2
    assert sorted(bench.moves(ACCOUNT)) == [("invoice", -1200), ("invoice_reversal", 1200), ("write_off", -1200)]


@pytest.mark.holds("usage.dry-run")
def test_a_dry_run_says_what_would_be_booked_and_books_nothing(bench: Bench) -> None:
    lost(bench, ACCOUNT)
    plan = plan_reconciliation(bench.context(SECOND))
    assert (plan.rows, plan.credit_cents, len(plan.sample)) == (3, -1700, 3)
    assert bench.invoice_entries(ACCOUNT) == []
    assert bench.rows("SELECT 1 FROM stripe_invoice") == []
    assert plan_reconciliation(bench.context(SECOND)) == plan


@pytest.mark.holds("lesson.green-metrics")
def test_the_task_ends_in_error_with_counts_if_an_invoice_failed(bench: Bench, rt: Runtime, broker: str) -> None:
    lost(bench, ACCOUNT)
    TestClock(rt.redis).advance(SECOND + timedelta(minutes=1))
    last = bench.world.invoices()[-1].id
    with bench.world.server.simulator.world() as world:
        odd = world.get("invoice", last)
        world.store.put({**odd, "status": "strange"})
    with pytest.raises(PermanentError, match=r"1 failed, 0 put off, 2 reflected.*strange"):
        tasks.reconcile_invoices()
    with bench.world.server.simulator.world() as world:
        world.store.put(odd)
    reconcile: Any = tasks.reconcile_invoices
    assert reconcile(dry_run=True)["dry_run"]["rows"] == 1
    assert reconcile(scheduled=True)["entries"] == 1
    assert reconcile(scheduled=True) == {"skipped": 1}
