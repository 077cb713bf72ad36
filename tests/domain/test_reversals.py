from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factories import START
from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.payments import (
    Amounts,
    Invoice,
    InvoiceLine,
    InvoiceStatus,
    StripeCustomerId,
    StripeInvoiceId,
    StripeSubscriptionId,
)
from usage_tasks.domain.reversals import (
    CreditedLine,
    CreditNote,
    CreditNoteId,
    credited_cents,
    is_refund_news,
)

INVOICE, NOTE = StripeInvoiceId("in_1"), CreditNoteId("cn_1")


def invoice_of(*lines: InvoiceLine) -> Invoice:
    return Invoice(
        invoice_id=INVOICE,
        customer_id=StripeCustomerId("cus_1"),
        subscription_id=StripeSubscriptionId("sub_1"),
        status=InvoiceStatus.PAID,
        created_at=START,
        period_start=START,
        period_end=START,
        finalized_at=START,
        paid_at=START,
        voided_at=None,
        uncollectible_at=None,
        replaced_by=None,
        amounts=Amounts(currency="usd", total=150, due=150, paid=150, remaining=0),
        attempts=1,
        lines=lines,
        fetched_at=START,
    )


def line(name: str, *, quantity: Decimal, amount: int, price: str = "ours") -> InvoiceLine:
    return InvoiceLine(price_id=price, quantity=quantity, line_id=name, amount=amount)


def note_of(*lines: CreditedLine) -> CreditNote:
    return CreditNote(
        credit_note_id=NOTE,
        invoice_id=INVOICE,
        customer_id=StripeCustomerId("cus_1"),
        voided=False,
        amount=sum(each.amount for each in lines),
        currency="usd",
        lines=lines,
    )


@pytest.mark.parametrize(
    ("quantity", "amount", "credited", "cents"),
    [
        ("100", 150, [50], 3333),  # a third
        ("100", 150, [150], 10_000),
        ("0.01", 2, [1], 1),  # half a cent rounds up
        ("0.01", 200, [99], 0),
        ("0.01", 4, [1, 1], 1),  # rounded once, not line by line
        ("7", 10, [], 0),
        ("7", 0, [3], 0),  # a line that cost nothing gives nothing back
    ],
)
def test_a_note_takes_off_its_share_of_the_money_rounded_once(
    quantity: str, amount: int, credited: list[int], cents: int
) -> None:
    invoice = invoice_of(line("il_1", quantity=Decimal(quantity), amount=amount))
    note = note_of(*(CreditedLine(invoice_line_id="il_1", amount=each) for each in credited))
    assert credited_cents(note, invoice, frozenset({"ours"})) == cents


@given(
    st.decimals(0, 10**6, places=6),
    st.integers(1, 10**9),
    st.lists(st.integers(0, 10**9), max_size=5),
    st.integers(0, 9),
)
def test_a_share_is_within_half_a_cent_of_exact_and_other_prices_count_nothing(
    quantity: Decimal, amount: int, parts: list[int], foreign: int
) -> None:
    invoice = invoice_of(
        line("il_1", quantity=quantity, amount=amount), line("il_2", quantity=Decimal(7), amount=100, price="theirs")
    )
    credited = [CreditedLine(invoice_line_id="il_1", amount=part) for part in parts]
    note = note_of(*credited, *(CreditedLine(invoice_line_id=name, amount=foreign) for name in ("il_2", None)))
    exact = Fraction(sum(parts)) * Fraction(quantity) * 100
    assert abs(credited_cents(note, invoice, frozenset({"ours"})) * amount - exact) * 2 <= amount


def test_a_refund_only_goes_on() -> None:
    assert is_refund_news(None, "pending")
    assert is_refund_news("succeeded", "failed")
    assert not is_refund_news("failed", "succeeded")
    assert not is_refund_news("succeeded", "succeeded")
    with pytest.raises(PermanentError) as error:
        is_refund_news(None, "lost")
    assert str(error.value) == (
        "refund: `status`: must be one of pending, requires_action, succeeded, failed, canceled (got 'lost')"
    )
