"""The kinds of ledger entry and their natural keys.

Amounts are signed credit cents: usage is positive, what settles it negative. A kind is the contra account, so the
entries of an account are a complete double entry: used = invoiced + covered + forgiven + carried.
"""

from datetime import datetime
from enum import StrEnum


class EntryKind(StrEnum):
    """What moved the balance."""

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
"""What pays or waives usage that was open; a note is given whatever is open."""


def invoice_key(stripe_invoice_id: str) -> str:
    """Name the entry of a finalized invoice."""
    return f"invoice:{stripe_invoice_id}"


def reset_key(cycle_started_at: datetime) -> str:
    """Name the entry of a cycle's reset; with the account, which is part of the table's key, it is unique."""
    return f"reset:{cycle_started_at.isoformat()}"


def upgrade_key(version: int) -> str:
    """Name the entry of the switch that made this version of the cost center."""
    return f"upgrade:{version}"


def note_key(idempotency_key: str) -> str:
    """Name the entry of a credit note by its caller's key."""
    return f"note:{idempotency_key}"


def burn_key(grant_number: int, settled_at: datetime) -> str:
    """Name the entry of what a grant paid when the account was settled at an instant: once an instant."""
    return f"grant:{grant_number}:{settled_at.isoformat()}"
