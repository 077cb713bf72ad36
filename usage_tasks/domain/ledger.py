"""The kinds of ledger entry and their natural keys.

Amounts are signed credit cents: usage is positive, what settles it negative. A kind is the contra account, so the
entries of an account are a complete double entry: used = invoiced + covered + forgiven + carried.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID


class EntryKind(StrEnum):
    """The kind of an entry: the cause of a change of the balance."""

    SESSION = "session"  # a final session
    ADJUSTMENT = "adjustment"  # the difference after a final session's facts were corrected
    INVOICE = "invoice"  # a finalized Stripe invoice
    RESET = "reset"  # an allowance that covered usage at the end of a cycle
    UPGRADE = "upgrade"  # what was forgiven when the account began to pay
    CREDIT_NOTE = "credit_note"  # what an operator gave, or with the other sign charged
    GRANT_BURN = "grant_burn"  # what a grant paid of usage
    INVOICE_REVERSAL = "invoice_reversal"  # an invoice that nobody will pay, or with the other sign pays after all
    WRITE_OFF = "write_off"  # what such an invoice had billed, waived, or with the other sign not waived after all


class Contra(StrEnum):
    """The other side of an entry: where its cents went."""

    USED = "used"
    INVOICED = "invoiced"
    COVERED = "covered"
    FORGIVEN = "forgiven"


CONTRA_BY_KIND = {
    EntryKind.SESSION: Contra.USED,
    EntryKind.ADJUSTMENT: Contra.USED,
    EntryKind.INVOICE: Contra.INVOICED,
    EntryKind.RESET: Contra.COVERED,
    EntryKind.UPGRADE: Contra.FORGIVEN,
    EntryKind.CREDIT_NOTE: Contra.FORGIVEN,
    EntryKind.GRANT_BURN: Contra.COVERED,
    EntryKind.INVOICE_REVERSAL: Contra.INVOICED,
    EntryKind.WRITE_OFF: Contra.FORGIVEN,
}


def kinds_of(contra: Contra) -> tuple[EntryKind, ...]:
    """List the kinds whose cents went to one contra account."""
    return tuple(kind for kind, other_side in CONTRA_BY_KIND.items() if other_side is contra)


USAGE_KINDS = kinds_of(Contra.USED)

SETTLING_KINDS = (EntryKind.INVOICE, EntryKind.RESET, EntryKind.UPGRADE, EntryKind.GRANT_BURN)
"""The kinds that pay or waive open usage. A credit note is given even if nothing is open."""


class KeyPrefix(StrEnum):
    """How the natural key of an entry begins; storage/keys.py composes the same keys in SQL."""

    SESSION = "session:"  # the session's id and the revision
    INVOICE = "invoice:"  # the invoice's id; of its credit notes more
    RESET = "reset:"  # the instant at which the cycle began
    UPGRADE = "upgrade:"  # the version of the cost center
    NOTE = "note:"  # the caller's idempotency key
    GRANT = "grant:"  # the grant's number and the instant of settlement
    REVERSAL = "invoice-"  # why, and the invoice's id
    WRITE_OFF = "write-off-"  # the same


CREDIT_NOTE: Final = "credit_note"
INVOICED: Final = "invoiced"
FORGIVEN: Final = "forgiven"


def session_key(instance_id: UUID, revision: int) -> str:
    """Name the entry of a session's revision; the first is the session itself, later ones correct it."""
    return f"{KeyPrefix.SESSION}{instance_id}:{revision}"


def invoice_key(stripe_invoice_id: str) -> str:
    """Name the entry of a finalized invoice."""
    return f"{KeyPrefix.INVOICE}{stripe_invoice_id}"


def reset_key(cycle_started_at: datetime) -> str:
    """Name the entry of a cycle's reset; with the account, which is part of the table's key, it is unique."""
    return f"{KeyPrefix.RESET}{cycle_started_at.isoformat()}"


def upgrade_key(version: int) -> str:
    """Name the entry of the switch that made this version of the cost center."""
    return f"{KeyPrefix.UPGRADE}{version}"


def note_key(idempotency_key: str) -> str:
    """Name the entry of an operator's credit note by its caller's key."""
    return f"{KeyPrefix.NOTE}{idempotency_key}"


def burn_key(grant_number: int, settled_at: datetime) -> str:
    """Name the entry of what a grant paid when the account was settled at an instant: once an instant."""
    return f"{KeyPrefix.GRANT}{grant_number}:{settled_at.isoformat()}"


def reversal_keys(reason: str, stripe_invoice_id: str) -> tuple[str, str]:
    """Name the two entries that take an invoice off what is invoiced, and write it off."""
    return f"{KeyPrefix.REVERSAL}{reason}:{stripe_invoice_id}", write_off_key(reason, stripe_invoice_id)


def write_off_key(reason: str, stripe_invoice_id: str) -> str:
    """Name the entry that writes an invoice off for a reason."""
    return f"{KeyPrefix.WRITE_OFF}{reason}:{stripe_invoice_id}"


def credit_note_prefix(stripe_invoice_id: str) -> str:
    """Return the beginning of the keys of all entries of an invoice's credit notes in Stripe."""
    return f"{invoice_key(stripe_invoice_id)}:{CREDIT_NOTE}:"


def credit_note_keys(stripe_invoice_id: str, credit_note_id: str, *, voided: bool = False) -> tuple[str, str]:
    """Name the two entries of a credit note in Stripe, or of its voiding: the invoice bills less, more is forgiven."""
    stem = f"{credit_note_prefix(stripe_invoice_id)}{credit_note_id}{':void' if voided else ''}"
    return f"{stem}:{INVOICED}", f"{stem}:{FORGIVEN}"


def credit_note_offset_keys(stripe_invoice_id: str, credit_note_id: str, *, voided: bool = False) -> tuple[str, str]:
    """Name the two entries that take the same off an invoice's reversal, where that was booked before the note."""
    return reversal_keys("credited", f"{stripe_invoice_id}:{credit_note_id}{':void' if voided else ''}")
