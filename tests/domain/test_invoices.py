from collections.abc import Sequence
from typing import Any

import pytest

from tests.factories import DAY, START, team
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.invoices import KnownInvoice, Movement, movements
from usage_tasks.domain.ledger import EntryKind
from usage_tasks.domain.payments import InvoiceStatus, StripeInvoiceId, StripeSubscriptionId

LATER = START + DAY


def moved(**fields: Any) -> Sequence[Movement]:
    """Return the ledger's movements for an invoice over 7 credits, by default finalized at START."""
    defaults: dict[str, Any] = {
        "attribution_id": team(),
        "invoice_id": StripeInvoiceId("in_1"),
        "subscription_id": StripeSubscriptionId("sub_1"),
        "status": InvoiceStatus.OPEN,
        "credit_cents": CreditCents(700),
        "credited_cents": CreditCents(0),
        "finalized_at": START,
        "replaced_by": None,
        "replacement_booked": False,
    }
    instants = dict.fromkeys(("paid_at", "voided_at", "uncollectible_at"))
    return movements(KnownInvoice(**(defaults | instants | fields)))


BOOKED = [("invoice", -700)]
VOID = [("invoice-void", 700), ("write-off-void", -700)]
GIVEN_UP = [("invoice-uncollectible", 700), ("write-off-uncollectible", -700)]
RECOVERED = [("invoice-recovered", -700), ("write-off-recovered", 700)]


@pytest.mark.holds("stripe.note-then-void")
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"finalized_at": None}, []),
        ({"paid_at": START}, BOOKED),
        ({"voided_at": LATER}, BOOKED + VOID),
        ({"uncollectible_at": LATER}, BOOKED + GIVEN_UP),
        ({"uncollectible_at": START, "paid_at": START}, BOOKED + GIVEN_UP + RECOVERED),
        ({"uncollectible_at": LATER, "paid_at": START}, BOOKED + GIVEN_UP),
        ({"uncollectible_at": START, "voided_at": LATER}, BOOKED + GIVEN_UP),
        ({"voided_at": LATER, "replaced_by": "in_2"}, BOOKED + VOID),
        (
            {"voided_at": LATER, "replaced_by": "in_2", "replacement_booked": True},
            [*BOOKED, *VOID, ("write-off-replaced", 700)],
        ),
        ({"credit_cents": CreditCents(0), "voided_at": LATER}, [("invoice", 0)]),
        ({"credited_cents": CreditCents(200), "paid_at": START}, BOOKED),
        (
            {"credited_cents": CreditCents(200), "voided_at": LATER},
            [*BOOKED, ("invoice-void", 500), ("write-off-void", -500)],
        ),
        (
            {"credited_cents": CreditCents(700), "voided_at": LATER},
            [*BOOKED, ("invoice-void", 0), ("write-off-void", 0)],
        ),
    ],
)
def test_what_an_invoice_means_follows_from_where_it_stands(
    fields: dict[str, Any], expected: list[tuple[str, int]]
) -> None:
    assert [(move.key.removesuffix(":in_1"), move.credit_cents) for move in moved(**fields)] == expected


def test_each_entry_says_what_happened_when_and_where_its_cents_went() -> None:
    invoice, less, waived = EntryKind.INVOICE, EntryKind.INVOICE_REVERSAL, EntryKind.WRITE_OFF
    last = LATER + DAY
    given_up = moved(uncollectible_at=LATER, paid_at=last)
    assert [(move.kind, move.effective_at, move.description) for move in given_up] == [
        (invoice, START, "Invoice in_1 finalized in Stripe"),
        (less, LATER, "Invoice in_1 marked uncollectible in Stripe"),
        (waived, LATER, "Invoice in_1 marked uncollectible in Stripe"),
        (less, last, "Invoice in_1 paid after it was given up"),
        (waived, last, "Invoice in_1 paid after it was given up"),
    ]
    voided = moved(voided_at=LATER, replaced_by="in_2", replacement_booked=True)
    assert [(move.kind, move.effective_at, move.description) for move in voided[1:]] == [
        (less, LATER, "Invoice in_1 voided in Stripe"),
        (waived, LATER, "Invoice in_1 voided in Stripe"),
        (waived, LATER, "Invoice in_1: replaced by in_2"),
    ]
