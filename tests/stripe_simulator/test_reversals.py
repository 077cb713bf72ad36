from typing import Any

import pytest
import stripe

from tests.stripe_simulator.conftest import START, Account
from tests.stripe_simulator.test_payments import invoiced


def paid(account: Account, card: str) -> Any:
    """A charge of 10.00 on a card."""
    asked = {"amount": 1000, "currency": "usd", "customer": account.v1.customers.create().id, "confirm": True}
    intent = account.v1.payment_intents.create({**asked, "payment_method": card})
    return account.v1.payment_intents.retrieve(intent.id, {"expand": ["latest_charge"]}).latest_charge


def dispute_of(account: Account, charge: Any) -> Any:
    (found,) = account.v1.disputes.list({"charge": charge.id}).data
    return found


def types(account: Account, *prefixes: str) -> list[str]:
    return [event["type"] for event in account.events(*prefixes)]


@pytest.mark.parametrize(
    ("steps", "status", "told"),
    [
        (["respond", "win"], "won", ["updated", "closed", "funds_reinstated"]),
        (["lose"], "lost", ["closed"]),
    ],
    ids=["won", "lost"],
)
def test_a_dispute_takes_the_money_until_it_is_won(
    account: Account, steps: list[str], status: str, told: list[str]
) -> None:
    charge = paid(account, "pm_card_visa")
    opened = account.acts("disputes", charge=charge.id, reason="product_not_received")
    for step in steps:
        account.acts("disputes/step", dispute=opened["id"], step=step)
    after = account.v1.disputes.retrieve(opened["id"], {"expand": ["payment_intent.customer", "charge"]})
    assert (after.status, after.reason, after.charge.disputed) == (status, "product_not_received", True)
    assert after.payment_intent.customer.id == charge.customer
    assert sum(one.amount for one in after.balance_transactions) == (0 if status == "won" else -1000)
    assert types(account, "charge.dispute.") == [
        f"charge.dispute.{kind}" for kind in ["created", "funds_withdrawn", *told]
    ]


def test_a_card_is_disputed_by_itself_and_an_inquiry_takes_nothing(account: Account) -> None:
    assert dispute_of(account, paid(account, "pm_card_createDispute")).reason == "fraudulent"
    asked = dispute_of(account, paid(account, "pm_card_createDisputeInquiry"))
    assert (asked.status, asked.balance_transactions) == ("warning_needs_response", [])
    with pytest.raises(AssertionError, match="can't win"):
        account.acts("disputes/step", dispute=asked.id, step="win")
    account.acts("disputes/step", dispute=asked.id, step="escalate")
    escalated = account.v1.disputes.retrieve(asked.id)
    assert (escalated.status, escalated.balance_transactions[0].amount) == ("needs_response", -1000)


def test_refunds_go_up_to_what_was_taken(account: Account) -> None:
    charge = paid(account, "pm_card_visa")
    first = account.v1.refunds.create({"charge": charge.id, "amount": 300, "reason": "duplicate"})
    with pytest.raises(stripe.InvalidRequestError, match="greater than"):
        account.v1.refunds.create({"charge": charge.id, "amount": 701})
    second = account.v1.refunds.create({"payment_intent": charge.payment_intent})
    assert (first.amount, second.amount, second.status) == (300, 700, "succeeded")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        account.v1.refunds.create({"charge": charge.id})
    assert refused.value.code == "charge_already_refunded"
    assert [one.id for one in account.v1.refunds.list({"charge": charge.id}).data] == [second.id, first.id]


@pytest.mark.parametrize(
    ("card", "first", "last", "told"),
    [
        ("pm_card_refundFail", "succeeded", "failed", ["created", "updated", "failed"]),
        ("pm_card_pendingRefund", "pending", "succeeded", ["created", "updated"]),
    ],
)
def test_what_a_refund_comes_to_is_told_later(
    account: Account, card: str, first: str, last: str, told: list[str]
) -> None:
    refund = account.v1.refunds.create({"charge": paid(account, card).id})
    assert refund.status == first
    account.advance(START + 60)
    assert account.v1.refunds.retrieve(refund.id).status == last
    assert types(account, "refund.") == [f"refund.{kind}" for kind in told]


# Credit notes


def note_over(account: Account, invoice: Any, amount: int, **fields: Any) -> Any:
    line = {"type": "invoice_line_item", "invoice_line_item": invoice.lines.data[0].id, "amount": amount}
    return account.v1.credit_notes.create({"invoice": invoice.id, "lines": [line], **fields})


def test_a_note_on_an_open_invoice_lowers_it_until_it_is_voided(account: Account) -> None:
    invoice = invoiced(account, "pm_card_chargeCustomerFail")
    note = note_over(account, invoice, 200)
    assert (note.type, note.pre_payment_amount, note.lines.data[0].amount) == ("pre_payment", 200, 200)
    assert account.v1.invoices.retrieve(invoice.id).amount_remaining == 300
    voided = account.v1.credit_notes.void_credit_note(note.id)
    assert (voided.status, account.v1.invoices.retrieve(invoice.id).amount_remaining) == ("void", 500)
    with pytest.raises(stripe.InvalidRequestError):
        account.v1.credit_notes.void_credit_note(note.id)
    note_over(account, invoice, 500)
    assert account.v1.invoices.retrieve(invoice.id).status == "paid"
    assert types(account, "credit_note.") == ["credit_note.created", "credit_note.voided", "credit_note.created"]


def test_a_note_on_a_paid_invoice_gives_the_money_somewhere(account: Account) -> None:
    invoice = invoiced(account, "pm_card_visa")
    with pytest.raises(stripe.InvalidRequestError, match="was paid already"):
        note_over(account, invoice, 200)
    refunded = note_over(account, invoice, 200, refund_amount=150, credit_amount=50)
    assert (refunded.type, refunded.post_payment_amount) == ("post_payment", 200)
    refund = account.v1.refunds.retrieve(refunded.refunds[0].refund)
    assert (refund.amount, refund.status) == (150, "succeeded")
    assert account.v1.customers.retrieve(invoice.customer).balance == -50
    with pytest.raises(stripe.InvalidRequestError, match="has left"):
        note_over(account, invoice, 301, refund_amount=301)
    alone = account.v1.credit_notes.create({"invoice": invoice.id, "amount": 10, "out_of_band_amount": 10})
    assert alone.lines.data[0].type == "custom_line_item"
    assert [one.id for one in account.v1.credit_notes.list({"invoice": invoice.id}).data] == [alone.id, refunded.id]
    assert account.v1.credit_notes.retrieve(alone.id).amount == 10


# Alerts


def test_an_alert_is_told_once_a_customer(account: Account) -> None:
    price = account.metered_price()
    threshold = {"gte": 10, "meter": price.recurring.meter, "recurrence": "one_time"}
    asked = {"alert_type": "usage_threshold", "title": "Much", "usage_threshold": threshold}
    alert = account.v1.billing.alerts.create(asked)
    assert [one.id for one in account.v1.billing.alerts.list().data] == [alert.id]
    owners = [account.subscribe(price).customer for _ in range(2)]
    for second, value in enumerate(("9", "10", "11")):
        account.report(owners[0], value, at=START + second)
    account.report(owners[1], "9", at=START)
    told = account.v1.events.list({"type": "billing.alert.triggered"}).data
    assert [(one.data.object.customer, one.data.object.value) for one in told] == [(owners[0], 10)]
