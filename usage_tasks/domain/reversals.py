"""Money that goes back: which credits a credit note takes off an invoice. Source: docs/adr/0017."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final, NewType

from usage_tasks.domain.credits import CENTS_PER_CREDIT, CreditCents
from usage_tasks.domain.errors import PermanentError, show
from usage_tasks.domain.ledger import EntryKind
from usage_tasks.domain.payments import Invoice, InvoiceLine, StripeCustomerId, StripeInvoiceId

CreditNoteId = NewType("CreditNoteId", str)
RefundId = NewType("RefundId", str)

INVOICED_KIND: Final = EntryKind.INVOICE_REVERSAL
FORGIVEN_KIND: Final = EntryKind.WRITE_OFF

_HALF: Final = Fraction(1, 2)
_REFUND_STEPS: Final = {"pending": 0, "requires_action": 1, "succeeded": 2, "failed": 3, "canceled": 3}
"""Final states of a refund. A succeeded refund may still come back, so it is not final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditedLine:
    """One line of a credit note. `invoice_line_id` is None if it belongs to no line of the invoice."""

    invoice_line_id: str | None
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNote:
    """A credit note as Stripe has it now; amounts in currency cents."""

    credit_note_id: CreditNoteId
    invoice_id: StripeInvoiceId
    customer_id: StripeCustomerId
    voided: bool
    amount: int
    currency: str
    lines: Sequence[CreditedLine]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund as Stripe has it now; `amount` in currency cents."""

    refund_id: RefundId
    status: str
    amount: int
    currency: str
    payment_intent_id: str | None
    customer_id: StripeCustomerId | None
    created_at: datetime


def credited_cents(note: CreditNote, invoice: Invoice, our_prices: frozenset[str]) -> CreditCents:
    """Return how many credits a note takes off: of each line of ours the share of its money, rounded once, half up.

    Raises PermanentError for a line that may be ours and can't be read.
    """
    lines = {line.line_id: line for line in invoice.lines if line.price_id in our_prices or line.price_id is None}
    credited = [(each.amount, lines[each.invoice_line_id]) for each in note.lines if each.invoice_line_id in lines]
    shares = (_share(amount, line) for amount, line in credited)
    return CreditCents((sum(shares, start=Fraction(0)) * CENTS_PER_CREDIT + _HALF) // 1)


def _share(amount: int, line: InvoiceLine) -> Fraction:
    if line.unreadable is not None:
        raise PermanentError(line.unreadable)
    if line.price_id is None:
        return Fraction(0)
    if line.amount is None:
        raise PermanentError(f"stripe line_item {line.line_id}: `amount`: must be a whole number (got nothing)")
    return Fraction(line.quantity) * Fraction(amount, line.amount) if line.amount else Fraction(0)


def is_refund_news(known: str | None, reported: str) -> bool:
    """Return True if a refund has moved on since the last look; a look may be older than the stored one.

    Raises PermanentError for a status that this version does not know.
    """
    if reported not in _REFUND_STEPS:
        raise PermanentError(f"refund: `status`: must be one of {', '.join(_REFUND_STEPS)} (got {show(reported)})")
    return known is None or _REFUND_STEPS[reported] > _REFUND_STEPS[known]
