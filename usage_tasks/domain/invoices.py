"""The effect of an invoice on the ledger: booked, given up, paid after all, voided, replaced. Source: docs/adr/0015.

The entries follow from the state of the invoice, not from the event that brought it: any order of events books the
same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.ledger import EntryKind, invoice_key, reversal_keys, write_off_key
from usage_tasks.domain.payments import InvoiceStatus, StripeInvoiceId, StripeSubscriptionId


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownInvoice:
    """The stored facts of an invoice: the furthest state in which it was seen, and the credits that it bills.

    `credited_cents` is the part of these credits that its present credit notes take off.
    """

    attribution_id: AttributionId
    invoice_id: StripeInvoiceId
    subscription_id: StripeSubscriptionId
    status: InvoiceStatus
    credit_cents: CreditCents
    credited_cents: CreditCents
    finalized_at: datetime | None
    paid_at: datetime | None
    voided_at: datetime | None
    uncollectible_at: datetime | None
    replaced_by: StripeInvoiceId | None
    replacement_booked: bool

    @property
    def left_cents(self) -> int:
        """The credits that the invoice bills after its credit notes."""
        return self.credit_cents - self.credited_cents

    @property
    def reversed_at(self) -> datetime | None:
        """The instant since which the ledger counts nothing of it as invoiced; None if it is payable or paid."""
        if self.uncollectible_at is not None:
            recovered = self.paid_at is not None and self.paid_at >= self.uncollectible_at
            return None if recovered else self.uncollectible_at
        return self.voided_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """One entry that the ledger is to hold of an invoice."""

    key: str
    kind: EntryKind
    credit_cents: int
    effective_at: datetime
    description: str


def movements(known: KnownInvoice) -> Sequence[Movement]:
    """Return the entries that the ledger holds of an invoice in its present state; none of a draft.

    A reversal takes the credits that its credit notes leave at that time. Later changes of the notes have entries of
    their own (domain/reversals.py).
    """
    if known.finalized_at is None:
        return ()
    identifier, cents = known.invoice_id, known.credit_cents
    booked = Movement(
        key=invoice_key(identifier),
        kind=EntryKind.INVOICE,
        credit_cents=-cents,
        effective_at=known.finalized_at,
        description=f"Invoice {identifier} finalized in Stripe",
    )
    if cents == 0:
        return (booked,)
    return (booked, *_given_up(known), *_voided(known))


def _given_up(known: KnownInvoice) -> Sequence[Movement]:
    given_up, paid = known.uncollectible_at, known.paid_at
    if given_up is None:
        return ()
    reversed_ = _pair(known, "uncollectible", known.left_cents, given_up, "marked uncollectible in Stripe")
    if paid is None or known.reversed_at is not None:
        return reversed_
    return (*reversed_, *_pair(known, "recovered", -known.left_cents, paid, "paid after it was given up"))


def _voided(known: KnownInvoice) -> Sequence[Movement]:
    """A void invoice is waived, once; if a booked revision bills instead, nothing is waived."""
    voided = known.voided_at
    if voided is None:
        return ()
    waived = () if known.uncollectible_at else _pair(known, "void", known.left_cents, voided, "voided in Stripe")
    if not known.replacement_booked:
        return waived
    replaced = Movement(
        key=write_off_key("replaced", known.invoice_id),
        kind=EntryKind.WRITE_OFF,
        credit_cents=known.credit_cents,
        effective_at=voided,
        description=f"Invoice {known.invoice_id}: replaced by {known.replaced_by}",
    )
    return (*waived, replaced)


def _pair(known: KnownInvoice, what: str, cents: int, at: datetime, happened: str) -> tuple[Movement, Movement]:
    """Take credits off what is invoiced and waive them, or with the other sign both back: no balance moves."""
    description = f"Invoice {known.invoice_id} {happened}"
    reversal_name, write_off_name = reversal_keys(what, known.invoice_id)
    reversal = Movement(
        key=reversal_name,
        kind=EntryKind.INVOICE_REVERSAL,
        credit_cents=cents,
        effective_at=at,
        description=description,
    )
    write_off = Movement(
        key=write_off_name,
        kind=EntryKind.WRITE_OFF,
        credit_cents=-cents,
        effective_at=at,
        description=description,
    )
    return reversal, write_off
