from collections.abc import Sequence
from decimal import Decimal

import pytest

from tests.factories import stripe_invoice
from usage_tasks.domain.payments import Invoice, InvoiceLine, invoiced_cents

OURS = frozenset({"price_eur", "price_usd"})


def invoice(lines: Sequence[tuple[str | None, int | str]]) -> Invoice:
    made = [InvoiceLine(price_id=price_id, quantity=Decimal(quantity)) for price_id, quantity in lines]
    return stripe_invoice(lines=made)


def test_an_invoice_bills_the_credits_of_all_lines_of_our_prices() -> None:
    billed = invoice([("price_eur", 1000), ("price_eur", 0), ("price_usd", 31), ("price_eur", 0)])
    assert invoiced_cents(billed, OURS) == 103_100


@pytest.mark.holds("lesson.foreign-lines")
def test_seats_prorations_and_lines_without_a_price_are_not_credits() -> None:
    assert invoiced_cents(invoice([("price_eur", 3), ("price_seat", 7), (None, 11)]), OURS) == 300
    assert invoiced_cents(invoice([("price_seat", 7)]), OURS) == 0
    assert invoiced_cents(invoice([("price_eur", 3)]), frozenset()) == 0


def test_an_invoice_without_lines_bills_nothing() -> None:
    assert invoiced_cents(invoice([]), OURS) == 0
