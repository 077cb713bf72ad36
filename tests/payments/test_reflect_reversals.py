from typing import Any

import pytest

from tests.factories import HOUR, SYSTEM, team
from tests.payments.test_reflect_dispute import apply, handle, told
from tests.stripe_world.bench import Bench, at_once
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import RetryableError
from usage_tasks.domain.payments import (
    Invoice,
)
from usage_tasks.domain.reversals import (
    CreditNote,
    CreditNoteId,
    RefundId,
)
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.services.payments.reflect_reversals import reflect_credit_note

ACCOUNT = team("reversed")
PERIOD_END = add_months(BEGIN, 1)
FINALIZED = PERIOD_END + GRACE


def billed(
    bench: Bench, account: AttributionId = ACCOUNT, *, card: str = "pm_card_visa", used: int = 100, book: bool = True
) -> Any:
    """An account whose first month is invoiced and booked: 100 credits for 1.50."""
    customer = bench.pay(account)
    method = bench.world.v1.payment_methods.attach(card, {"customer": customer}).id
    bench.world.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": method}})
    bench.use(account, used, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FINALIZED)
    if book:
        bench.receive_and_apply(FINALIZED)
        assert bench.invoice_entries(account) == [-used * 100]
    bench.world.new_events()
    return bench.world.invoices(customer)[-1]


def credit(bench: Bench, invoice: Any, amount: int, **fields: Any) -> Any:
    line = {"type": "invoice_line_item", "invoice_line_item": invoice.lines.data[0].id, "amount": amount}
    return bench.world.v1.credit_notes.create({"invoice": invoice.id, "lines": [line], **fields})


def moved(bench: Bench, account: AttributionId = ACCOUNT) -> dict[str, int]:
    """Return the cents that credit notes moved, by the column of the balance that they went to."""
    rows = bench.rows(
        "SELECT key, credit_cents FROM ledger_entry WHERE attribution_id = :a AND key LIKE '%:credit_note:%'", a=account
    )
    sums = {"invoiced": 0, "forgiven": 0}
    for row in rows:
        sums[row.key.rpartition(":")[2]] -= row.credit_cents
    return sums


def balance_of(bench: Bench, account: AttributionId = ACCOUNT) -> Any:
    return bench.rows("SELECT * FROM account_balance WHERE attribution_id = :a", a=account)[0]


@pytest.mark.holds("stripe.credit-note")
def test_a_credit_note_moves_its_share_from_invoiced_to_forgiven_and_no_balance(bench: Bench) -> None:
    invoice = billed(bench)
    bench.use(ACCOUNT, 3, until=FINALIZED + HOUR)
    instants = [BEGIN + HOUR, PERIOD_END, FINALIZED, FINALIZED + 2 * HOUR]
    before = [bench.balance(ACCOUNT, at) for at in instants]
    credit(bench, invoice, 50, refund_amount=50)  # a third of 1.50
    assert handle(bench, "credit_note.") == ["3333 credit cents forgiven"]
    assert moved(bench) == {"invoiced": -3333, "forgiven": 3333}
    held = balance_of(bench)
    assert (held.used_cents, held.invoiced_cents, held.forgiven_cents, held.carried_cents) == (10_300, 6667, 3333, 300)
    assert [bench.balance(ACCOUNT, at) for at in instants] == before
    assert bench.sync(FINALIZED + 2 * HOUR) == 1
    assert bench.reports()[-1][1] == 3  # the credited part is not billed again
    with bench.transaction() as connection:
        assert verify(connection, at=FINALIZED + 2 * HOUR).clean


def test_notes_never_take_off_more_than_the_invoice_billed_however_they_are_rounded(bench: Bench) -> None:
    invoice = billed(bench, used=5)  # 0.08: each credited cent is 62.5 credit cents
    for _ in range(8):
        credit(bench, invoice, 1, out_of_band_amount=1)
    assert handle(bench, "credit_note.") == 7 * ["63 credit cents forgiven"] + ["59 credit cents forgiven"]
    assert moved(bench) == {"invoiced": -500, "forgiven": 500}
    assert balance_of(bench).invoiced_cents == 0


@pytest.mark.holds("stripe.credit-note")
@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
def test_a_voided_note_bills_its_credits_after_all(bench: Bench, backwards: object) -> None:
    invoice = billed(bench, card="pm_card_chargeCustomerFail")
    note = credit(bench, invoice, 75)
    if not backwards:
        assert handle(bench, "credit_note.") == ["5000 credit cents forgiven"]
    bench.world.v1.credit_notes.void_credit_note(note.id)
    handle(bench, "credit_note.", backwards=bool(backwards))
    assert moved(bench) == {"invoiced": 0, "forgiven": 0}
    assert balance_of(bench).invoiced_cents == 10_000


def test_a_look_from_before_a_note_was_voided_forgives_nothing_when_it_lands_afterwards(bench: Bench) -> None:
    invoice = billed(bench, card="pm_card_chargeCustomerFail")
    note = credit(bench, invoice, 75)
    early = looked_at(bench, note.id)
    bench.world.v1.credit_notes.void_credit_note(note.id)
    assert reflect(bench, *looked_at(bench, note.id)) == "no effect"
    assert reflect(bench, *early) == "no effect"
    assert moved(bench) == {"invoiced": 0, "forgiven": 0}


def looked_at(bench: Bench, note_id: str) -> tuple[CreditNote, Invoice]:
    note = bench.stripe.get_credit_note(CreditNoteId(note_id))
    return note, bench.stripe.get_invoice(note.invoice_id)


def reflect(bench: Bench, note: CreditNote, invoice: Invoice) -> str:
    with bench.transaction() as connection:
        return reflect_credit_note(
            connection, note, invoice, our_prices=bench.world.our_prices, at=FINALIZED, actor=SYSTEM
        )


def test_a_note_whose_invoice_is_not_booked_waits_for_it(bench: Bench) -> None:
    invoice = billed(bench, book=False)
    credit(bench, invoice, 50, out_of_band_amount=50)
    with pytest.raises(RetryableError, match="not booked yet"):
        handle(bench, "credit_note.")


@pytest.mark.holds("stripe.credit-note")
def test_what_is_of_no_line_of_ours_is_money_only(bench: Bench) -> None:
    invoice = billed(bench)
    bench.world.v1.credit_notes.create({"invoice": invoice.id, "amount": 10, "out_of_band_amount": 10})
    assert handle(bench, "credit_note.") == ["no effect"]
    assert moved(bench) == {"invoiced": 0, "forgiven": 0}


def test_the_same_note_told_twice_and_at_once_moves_once(bench: Bench) -> None:
    invoice = billed(bench)
    credit(bench, invoice, 150, refund_amount=150)
    (event,) = [event for event in bench.world.new_events() if event.type == "credit_note.created"]
    outcomes = at_once(*[lambda: apply(bench, event)] * 4)
    assert sorted(outcomes) == ["10000 credit cents forgiven", *["no effect"] * 3]
    assert moved(bench) == {"invoiced": -10_000, "forgiven": 10_000}
    assert len(bench.rows("SELECT 1 FROM audit WHERE action = 'stripe_credit_note.create'")) == 1


# Refunds


@pytest.mark.holds("stripe.refund")
def test_a_refund_moves_money_only_and_is_remembered_with_its_invoice(bench: Bench) -> None:
    invoice = billed(bench)
    before = balance_of(bench)
    (payment,) = bench.world.v1.invoice_payments.list({"invoice": invoice.id}).data
    refund = bench.world.v1.refunds.create({"payment_intent": payment.payment.payment_intent, "amount": 40})
    assert handle(bench, "refund.") == ["refund is succeeded"]
    assert balance_of(bench) == before
    (row,) = bench.rows("SELECT * FROM stripe_refund")
    assert (row.stripe_refund_id, row.status, row.amount) == (refund.id, "succeeded", 40)
    assert row.stripe_invoice_id == invoice.id
    assert bench.stripe.get_refund(RefundId(refund.id)).payment_intent_id == payment.payment.payment_intent


@pytest.mark.holds("stripe.refund")
@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
def test_a_refund_that_comes_back_is_told_once(bench: Bench, backwards: object) -> None:
    invoice = billed(bench, card="pm_card_refundFail")
    (payment,) = bench.world.v1.invoice_payments.list({"invoice": invoice.id}).data
    refund = bench.world.v1.refunds.create({"payment_intent": payment.payment.payment_intent})
    bench.world.advance(FINALIZED + HOUR)
    handle(bench, "refund.", backwards=bool(backwards))
    assert told(bench) == [("refund_failed", ACCOUNT)]
    (row,) = bench.rows("SELECT * FROM stripe_refund")
    assert (row.stripe_refund_id, row.status) == (refund.id, "failed")
    assert len(bench.rows("SELECT 1 FROM audit WHERE action LIKE 'stripe_refund.%'")) == 1
