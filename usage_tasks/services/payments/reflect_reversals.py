"""Reflect reversals: credit notes move credits from invoiced to forgiven, refunds move money only.

A credit note on our lines means that these credits need not be paid. They stay used: the amount that the invoice bills
less is forgiven in the same statement, so the balance, and with it the next period's bill, never changes. An unpaid
invoice that was given up is reversed by the amount that its notes leave; later notes take their credits off the
reversal.
Source: docs/adr/0017.
"""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.announcements import RefundFailed
from usage_tasks.domain.errors import RetryableError
from usage_tasks.domain.invoices import KnownInvoice
from usage_tasks.domain.ledger import credit_note_keys, credit_note_offset_keys, invoice_key
from usage_tasks.domain.payments import Invoice, StripeInvoiceId
from usage_tasks.domain.reversals import (
    FORGIVEN_KIND,
    INVOICED_KIND,
    CreditNote,
    Refund,
    credited_cents,
    is_refund_news,
)
from usage_tasks.storage.ledger import cost_centers, entries
from usage_tasks.storage.ledger.entries import Entry
from usage_tasks.storage.operations import audit, outbox
from usage_tasks.storage.payments import customers, disputes, invoices


def reflect_credit_note(
    connection: Connection,
    note: CreditNote,
    invoice: Invoice,
    *,
    our_prices: frozenset[str],
    at: datetime,
    actor: Actor,
) -> str:
    """Move the credits that a note takes off an invoice; return the outcome.

    Raises RetryableError while the invoice is not booked.
    """
    account = customers.find_account(connection, note.customer_id)
    if account is None or invoice.subscription_id is None:
        return "not of a subscription of ours"
    if cost_centers.find_current(connection, account) is not None:
        # Always the cost center before the balance, as resets and switches do: no two wait for one another.
        cost_centers.lock_current(connection, account)
    booked = entries.find_entry(connection, account, invoice_key(note.invoice_id))
    if booked is None:
        raise RetryableError(f"credit note {note.credit_note_id}: its invoice {note.invoice_id} is not booked yet")
    known = invoices.get_invoice(connection, account, note.invoice_id)
    ours = our_prices | customers.list_prices(connection, account)
    moved = _append(connection, booked, known, note, cents=credited_cents(note, invoice, ours))
    if moved:
        audit.append_audit(
            connection,
            at=at,
            actor=actor,
            action=f"stripe_credit_note.{'void' if note.voided else 'create'}",
            attribution_id=account,
            details={
                "stripe_credit_note_id": note.credit_note_id,
                "stripe_invoice_id": note.invoice_id,
                "credit_cents": moved,
                "amount": note.amount,
                "currency": note.currency,
            },
        )
    return f"{moved} credit cents {'billed after all' if note.voided else 'forgiven'}" if moved else "no effect"


def _append(connection: Connection, booked: Entry, known: KnownInvoice, note: CreditNote, *, cents: int) -> int:
    """Append a note's two entries, and their opposites too if it is voided; return the credit cents that moved now.

    A voided note has both pairs, also where its creation was never announced: what was fetched before it was voided
    then finds its entries there. Never more is taken off than the invoice and its other notes leave.
    """
    made = min(cents, known.left_cents)
    moved = made if made > 0 and _append_pairs(connection, booked, known, note, made, voided=False) else 0
    if not note.voided:
        return moved
    keys = credit_note_keys(note.invoice_id, note.credit_note_id)
    stands = entries.find_entry(connection, booked.attribution_id, keys[0])
    if stands is None:
        return 0
    undone = _append_pairs(connection, booked, known, note, stands.credit_cents, voided=True)
    return undone * stands.credit_cents - moved


def _append_pairs(
    connection: Connection, booked: Entry, known: KnownInvoice, note: CreditNote, cents: int, *, voided: bool
) -> bool:
    """Append the reduction of the invoice and the forgiven amount, as of its own instant. Return True if they are new.

    Where the invoice is reversed already, both are taken off its reversal, so that together they stay what it bills.
    """
    amount = -cents if voided else cents
    what = f"Credit note {note.credit_note_id} of invoice {note.invoice_id}{', voided' if voided else ''}"
    reversed_entry = replace(booked, description=what)
    pair = _pair(reversed_entry, credit_note_keys(note.invoice_id, note.credit_note_id, voided=voided), amount)
    if not entries.append_entries(connection, pair):
        return False
    if known.reversed_at is not None:
        reversed_entry = replace(reversed_entry, effective_at=known.reversed_at)
        offset = _pair(
            reversed_entry, credit_note_offset_keys(note.invoice_id, note.credit_note_id, voided=voided), -amount
        )
        entries.append_entries(connection, offset)
    return True


def _pair(reversed_entry: Entry, keys: tuple[str, str], cents: int) -> list[Entry]:
    """Two entries at one instant, so that no balance moves: off what is invoiced, on what is forgiven."""
    first = replace(reversed_entry, key=keys[0], kind=INVOICED_KIND, credit_cents=cents)
    return [first, replace(first, key=keys[1], kind=FORGIVEN_KIND, credit_cents=-cents)]


def reflect_refund(
    connection: Connection, refund: Refund, invoice_id: StripeInvoiceId | None, *, at: datetime, actor: Actor
) -> str:
    """Store the state of a refund. A failed refund is announced to the platform, for we have the money again."""
    account: AttributionId | None = None
    if refund.customer_id is not None:
        account = customers.find_account(connection, refund.customer_id)
    if account is None:
        return "not a customer of ours"
    held = disputes.find_refund_status(connection, account, refund.refund_id)
    if not is_refund_news(held, refund.status):
        return "known"
    if not disputes.put_refund(connection, account, refund, invoice_id=invoice_id, replaces=held, at=at):
        raise RetryableError(f"refund {refund.refund_id}: another worker is at it")
    audit.append_audit(
        connection,
        at=at,
        actor=actor,
        action=f"stripe_refund.{refund.status}",
        attribution_id=account,
        details={
            "stripe_refund_id": refund.refund_id,
            "stripe_invoice_id": invoice_id,
            "amount": refund.amount,
            "currency": refund.currency,
        },
    )
    if refund.status == "failed":
        failed = RefundFailed(
            attribution_id=account,
            stripe_refund_id=refund.refund_id,
            stripe_invoice_id=invoice_id,
            amount=refund.amount,
            currency=refund.currency,
            at=at,
        )
        outbox.announce(connection, failed, once_per=refund.refund_id)
    return f"refund is {refund.status}"
