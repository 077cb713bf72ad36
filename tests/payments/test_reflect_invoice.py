from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.factories import DAY, HOUR, team
from tests.stripe_world.bench import Bench, at_once
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.payments import Invoice, StripeInvoiceId
from usage_tasks.services.payments.reflect_invoice import Effect, reflect_invoice

ACCOUNT = team("one")
PERIOD_END = add_months(BEGIN, 1)
FINALIZED = PERIOD_END + GRACE
SECOND_END = add_months(BEGIN, 2)


def unpaid(bench: Bench) -> str:
    """An account whose first month of 12.35 credits is invoiced and cannot be collected; return the invoice."""
    bench.world.decline(bench.pay(ACCOUNT))
    bench.use(ACCOUNT, "12.35", until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FINALIZED)
    bench.handle_all(FINALIZED)
    invoice = bench.world.invoices()[-1]
    assert (invoice.status, bench.moves(ACCOUNT)) == ("open", [("invoice", -1300)])
    return str(invoice.id)


def reflect(bench: Bench, invoice: Invoice, at: datetime) -> Effect:
    with bench.transaction() as connection:
        return reflect_invoice(connection, invoice, terms=bench.terms(), at=at)


def stored(bench: Bench, invoice_id: str) -> Any:
    return bench.rows("SELECT * FROM stripe_invoice WHERE stripe_invoice_id = :id", id=invoice_id)[0]


def test_a_finalized_invoice_is_stored_with_its_amounts_and_credits(bench: Bench) -> None:
    row, invoice = stored(bench, unpaid(bench)), bench.world.invoices()[-1]
    assert (row.credit_cents, row.currency, row.status, row.attempts) == (1300, "usd", "open", 1)
    assert (row.total, row.amount_due, row.amount_paid, row.amount_remaining) == (20, 20, 0, 20)  # 13 at 1.5 cents
    assert (row.period_start, row.period_end, row.finalized_at) == (BEGIN, PERIOD_END, FINALIZED)
    assert row.stripe_subscription_id == invoice.parent.subscription_details.subscription


@pytest.mark.holds("stripe.invoice-reversed")
def test_a_voided_invoice_is_reversed_and_waived_so_that_nothing_is_billed_again(bench: Bench) -> None:
    invoice_id = unpaid(bench)
    balance = bench.balance(ACCOUNT, FINALIZED)
    bench.world.v1.invoices.void_invoice(invoice_id)
    assert bench.handle_all(FINALIZED).parked == 0
    assert sorted(bench.moves(ACCOUNT)) == [("invoice", -1300), ("invoice_reversal", 1300), ("write_off", -1300)]
    assert bench.balance(ACCOUNT, FINALIZED) == balance == 1235 - 1300
    sums = bench.rows("SELECT used_cents, invoiced_cents, forgiven_cents, carried_cents FROM account_balance")
    assert [tuple(row) for row in sums] == [(1235, 0, 1300, -65)]
    assert bench.verified(FINALIZED).clean
    bench.world.advance(SECOND_END + GRACE)
    bench.handle_all(SECOND_END + GRACE)
    assert bench.world.billed_credits(bench.world.customers()[0].id) == [13]


def test_what_is_charged_again_by_hand_after_a_void_is_billed_once(bench: Bench) -> None:
    bench.world.v1.invoices.void_invoice(unpaid(bench))
    bench.handle_all(FINALIZED)
    bench.credit(ACCOUNT, -1300, at=FINALIZED + HOUR)
    bench.sync_and_send(FINALIZED + 2 * HOUR)
    bench.world.advance(SECOND_END + GRACE)
    bench.handle_all(SECOND_END + GRACE)
    assert bench.world.billed_credits(bench.world.customers()[0].id) == [13, 13]
    assert bench.balance(ACCOUNT, SECOND_END + GRACE) == 1235 - 1300


@pytest.mark.holds("stripe.invoice-reversed", "stripe.paid-after-all")
def test_an_invoice_that_is_paid_after_it_was_given_up_is_invoiced_again(bench: Bench) -> None:
    invoice_id = unpaid(bench)
    bench.world.v1.invoices.mark_uncollectible(invoice_id)
    bench.handle_all(FINALIZED)
    assert sorted(bench.moves(ACCOUNT)) == [("invoice", -1300), ("invoice_reversal", 1300), ("write_off", -1300)]
    bench.world.decline(bench.world.customers()[0].id, declined=False)
    bench.world.advance(FINALIZED + DAY)
    bench.world.collect(invoice_id)
    bench.handle_all(FINALIZED + DAY)
    sums = bench.rows("SELECT used_cents, invoiced_cents, forgiven_cents FROM account_balance")
    assert [tuple(row) for row in sums] == [(1235, 1300, 0)]
    assert len(bench.moves(ACCOUNT)) == 5
    assert bench.verified(FINALIZED + DAY).clean


@pytest.mark.holds("stripe.invoice-reversed")
def test_an_invoice_that_is_voided_after_it_was_given_up_is_waived_once(bench: Bench) -> None:
    invoice_id = unpaid(bench)
    bench.world.v1.invoices.mark_uncollectible(invoice_id)
    bench.world.v1.invoices.void_invoice(invoice_id)
    bench.handle_all(FINALIZED)
    assert sorted(bench.moves(ACCOUNT)) == [("invoice", -1300), ("invoice_reversal", 1300), ("write_off", -1300)]


@pytest.mark.holds("stripe.invoice-reversed")
@pytest.mark.parametrize("first", ["void", "revision"])
def test_what_a_revision_replaces_is_waived_until_the_revision_is_booked(bench: Bench, first: str) -> None:
    invoice_id = unpaid(bench)
    bench.world.v1.invoices.void_invoice(invoice_id)
    bench.world.advance(SECOND_END + GRACE)
    revision = bench.world.invoices()[-1].id  # the next one replaces it
    bench.world.replace(invoice_id, revision)
    both = [invoice_id, revision] if first == "void" else [revision, invoice_id]
    invoices = [bench.stripe.get_invoice(StripeInvoiceId(each)) for each in both]
    reflect(bench, invoices[0], SECOND_END + GRACE)
    if first == "void":
        assert bench.balance(ACCOUNT, SECOND_END) == 1235 - 1300
    reflect(bench, invoices[1], SECOND_END + GRACE)
    assert bench.balance(ACCOUNT, SECOND_END) == 1235
    assert bench.rows("SELECT invoiced_cents, forgiven_cents FROM account_balance")[0] == (0, 0)


@pytest.mark.holds("stripe.late-fetch")
@pytest.mark.parametrize("end", ["void", "paid"])
def test_a_fetch_that_lands_late_takes_nothing_back(bench: Bench, end: str) -> None:
    invoice_id = unpaid(bench)
    early = bench.stripe.get_invoice(StripeInvoiceId(invoice_id))
    if end == "void":
        bench.world.v1.invoices.void_invoice(invoice_id)
    else:
        bench.world.decline(early.customer_id, declined=False)
        bench.world.collect(invoice_id)
    bench.handle_all(FINALIZED)
    before, moves = stored(bench, invoice_id), bench.moves(ACCOUNT)
    assert before.status == end
    assert reflect(bench, early, FINALIZED) == Effect(outcome="invoice was booked before")
    assert (stored(bench, invoice_id), bench.moves(ACCOUNT)) == (before, moves)


@pytest.mark.holds("stripe.late-fetch")
def test_of_two_fetches_in_one_state_the_later_stands(bench: Bench) -> None:
    invoice_id = unpaid(bench)
    early = bench.stripe.get_invoice(StripeInvoiceId(invoice_id))
    bench.world.collect(invoice_id)  # declined once more
    late = bench.stripe.get_invoice(StripeInvoiceId(invoice_id))
    for invoice in (late, early):
        reflect(bench, invoice, FINALIZED)
    assert (early.attempts, late.attempts, stored(bench, invoice_id).attempts) == (1, 2, 2)


def test_a_void_invoice_that_was_never_booked_is_booked_and_reversed_at_once(bench: Bench) -> None:
    bench.world.decline(bench.pay(ACCOUNT))
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FINALIZED)
    bench.world.v1.invoices.void_invoice(bench.world.invoices()[-1].id)
    bench.store(next(event for event in bench.world.new_events() if event.type == "invoice.voided"))
    bench.apply(FINALIZED)
    assert sorted(bench.moves(ACCOUNT)) == [("invoice", -1200), ("invoice_reversal", 1200), ("write_off", -1200)]
    assert bench.rows("SELECT next_billing_at FROM cost_center WHERE superseded_at IS NULL")[0][0] == SECOND_END
    assert bench.sync(FINALIZED + HOUR) == 0


def test_an_invoice_that_is_not_booked_as_it_stands_is_found(bench: Bench) -> None:
    invoice_id = unpaid(bench)
    bench.execute("UPDATE stripe_invoice SET status = 'void', voided_at = finalized_at WHERE status = 'open'")
    found = {each.check: each.sample for each in bench.verified(FINALIZED).findings if each.offenders}
    assert found == {"invoices_are_booked_as_they_stand": (f"{ACCOUNT} {invoice_id}",)}


def test_two_workers_with_one_invoice_reverse_it_once(bench: Bench) -> None:
    invoice_id = unpaid(bench)
    bench.world.v1.invoices.void_invoice(invoice_id)
    void = bench.stripe.get_invoice(StripeInvoiceId(invoice_id))
    effects = at_once(*[lambda: reflect(bench, void, FINALIZED)] * 4)
    assert sorted(effect.entries for effect in effects) == [0, 0, 0, 2]
    assert bench.verified(FINALIZED).clean


def test_what_needs_somebody_is_announced_once_while_it_does(bench: Bench) -> None:
    invoice_id = unpaid(bench)
    fields = {"object": invoice_id, "at": FINALIZED}
    for number, kind in enumerate(["invoice.payment_action_required"] * 2 + ["invoice.finalization_failed"]):
        bench.execute(
            "INSERT INTO stripe_event (event_id, type, object_id, created_at) VALUES (:id, :kind, :object, :at)",
            id=f"evt_{number}",
            kind=kind,
            **fields,
        )
    bench.apply(FINALIZED)
    assert bench.told(ACCOUNT) == ["payment_failed", "payment_action_required"]  # it is no draft any more


@pytest.mark.holds("stripe.invoice-order")
def test_an_invoice_in_the_middle_of_a_period_passes_none_over(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FINALIZED)
    first = [event for event in bench.world.new_events() if event.type.startswith("invoice.")]
    ended = FINALIZED + 3 * DAY
    bench.use(ACCOUNT, 5, until=ended - HOUR)
    bench.sync_and_send(ended - HOUR)
    bench.world.advance(ended)
    bench.world.v1.subscriptions.cancel(bench.world.subscriptions()[0].id, {"invoice_now": True})
    bench.world.advance(ended + GRACE)
    assert bench.handle_all(ended + GRACE).retried > 0
    assert bench.moves(ACCOUNT) == []
    for event in first:
        bench.store(event)
    bench.handle_all(ended + GRACE)
    assert bench.moves(ACCOUNT) == [("invoice", -1200), ("invoice", -500)]
    assert bench.rows("SELECT billing_strategy FROM cost_center WHERE superseded_at IS NULL")[0][0] == "other"
    assert bench.verified(ended + timedelta(hours=2)).clean
