"""Reflect an invoice in the ledger: the one way in, for events, reconciliation and operators alike.

The effect depends on the state of the invoice and on the stored facts, never on the event that brought it or on the
order of events: each effect has a natural key, and an older copy that arrives later changes nothing.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.domain.invoices import KnownInvoice, Movement, movements
from usage_tasks.domain.ledger import invoice_key
from usage_tasks.domain.payments import Invoice, InvoiceStatus, StripeCustomerId, invoiced_cents
from usage_tasks.services.ledger.reset import reset_account
from usage_tasks.services.metering.decide_reports import report_closing_quantity, report_quantities, settle_period
from usage_tasks.services.payments.billing_terms import BillingTerms
from usage_tasks.services.payments.leave_stripe import leave_if_settled
from usage_tasks.storage.ledger import cost_centers, entries
from usage_tasks.storage.operations import audit
from usage_tasks.storage.payments import customers, dunning, invoices, subscriptions
from usage_tasks.storage.payments.subscriptions import KnownSubscription

_ACTOR: Final = Actor("service:stripe.apply_events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The effect: meter reports added, entries booked, credits newly invoiced, and the outcome in words."""

    reports: int = 0
    entries: int = 0
    invoiced_cents: int = 0
    outcome: str


def reflect_invoice(
    connection: Connection, invoice: Invoice, *, terms: BillingTerms, at: datetime, failed_at: datetime | None = None
) -> Effect:
    """Bring ledger, cost center and dunning in line with an invoice. An invoice that is not ours has no effect.

    `failed_at` is the time of an event that reports a failed payment. Raises RetryableError while the invoice of an
    earlier period, or the answer to the call that made its subscription, is not stored.
    """
    owner = _find_owner(connection, invoice)
    if owner is None:
        return Effect(outcome="not of a subscription of ours")
    if (invoice.status is InvoiceStatus.DRAFT) != (invoice.finalized_at is None):
        raise PermanentError(f"invoice {invoice.invoice_id}: status {invoice.status} with {invoice.finalized_at=}")
    account = owner.attribution_id
    if cost_centers.find_current(connection, account) is not None:
        # Always lock the cost center before other rows of the account: two transactions cannot deadlock.
        cost_centers.lock_current(connection, account)
    cents = _billed_cents(connection, account, invoice, terms)
    invoices.put_invoice(connection, account, invoice, cents)
    if failed_at is not None:
        invoices.mark_failed(connection, account, invoice.invoice_id, at=failed_at)
    known = invoices.get_invoice(connection, account, invoice.invoice_id)
    if known.finalized_at is None:
        reports = report_closing_quantity(connection, account, period_end=invoice.period_end)
        effect = Effect(reports=reports, outcome="closing quantity reported")
    else:
        effect = _book(connection, known, invoice, at)
    dunning.advance(connection, at=at, policy=terms.dunning, actor=_ACTOR, only=account)
    if leave_if_settled(connection, owner.subscription_id, terms=terms, at=at):
        return replace(effect, outcome=f"{effect.outcome}; the account left stripe")
    if effect.entries:
        return replace(
            effect, reports=report_quantities(connection, at=max(at, known.finalized_at or at), only=account)
        )
    return effect


def _find_owner(connection: Connection, invoice: Invoice) -> KnownSubscription | None:
    if invoice.subscription_id is None:
        return None
    owner = subscriptions.find_subscription(connection, invoice.subscription_id)
    if owner is None:
        check_answered(connection, invoice.customer_id, f"invoice {invoice.invoice_id}")
    return owner


def check_answered(connection: Connection, customer_id: StripeCustomerId, what: str) -> None:
    """Raise RetryableError while a subscription is being made for a customer: what came may be of that one."""
    if subscriptions.find_reserved(connection, customer_id) is not None:
        raise RetryableError(f"{what}: a subscription of its customer is asked of Stripe, and the answer not stored")


def _billed_cents(connection: Connection, account: AttributionId, invoice: Invoice, terms: BillingTerms) -> CreditCents:
    """Return the credits that an invoice bills: the booked ones, else its lines of our prices, past prices included."""
    booked = entries.find_entry(connection, account, invoice_key(invoice.invoice_id))
    if booked is not None:
        return CreditCents(-booked.credit_cents)
    return invoiced_cents(invoice, terms.our_prices | customers.list_prices(connection, account))


def _book(connection: Connection, known: KnownInvoice, invoice: Invoice, at: datetime) -> Effect:
    """Enter what an invoice means, and advance its account's cycle past it where that is new."""
    account, moves = known.attribution_id, movements(known)
    current = None
    if entries.find_entry(connection, account, moves[0].key) is None:
        current = settle_period(connection, account, period_end=invoice.period_end, already_sent=True)
    booked = entries.append_entries(connection, [_entry(account, move) for move in moves])
    if not booked:
        return Effect(outcome="invoice was booked before")
    if current is not None and current.billing_strategy is BillingStrategy.STRIPE:
        _advance_cycle(connection, current, invoice)
    if len(moves) > 1:
        _audit_reversals(connection, known, at)
    for replaced in invoices.list_replaced(connection, account, known.invoice_id):
        further = movements(invoices.get_invoice(connection, account, replaced))
        booked += entries.append_entries(connection, [_entry(account, move) for move in further])
    reset_account(connection, account, at=max(at, moves[0].effective_at), actor=_ACTOR)
    if current is None:
        return Effect(entries=booked, outcome=f"invoice is {known.status}")
    return Effect(entries=booked, invoiced_cents=known.credit_cents, outcome="invoice booked")


def _entry(account: AttributionId, move: Movement) -> entries.Entry:
    return entries.Entry(
        attribution_id=account,
        key=move.key,
        kind=move.kind,
        credit_cents=move.credit_cents,
        effective_at=move.effective_at,
        description=move.description,
    )


def _advance_cycle(connection: Connection, current: CostCenter, invoice: Invoice) -> None:
    """Advance past an invoice's period; raise RetryableError while the period before it has no invoice booked.

    The quantity reported for a period stays out of later reports until its invoice is booked, so no invoice may be
    skipped: not by a later period's invoice, and not by the invoice of a subscription that ends within a period.
    """
    cycle = current.cycle
    begins_later = invoice.period_start < invoice.period_end and cycle.ends_at <= invoice.period_start
    if begins_later or cycle.following().ends_at <= invoice.period_end:
        raise RetryableError(
            f"invoice {invoice.invoice_id}: the one of {current.attribution_id} for the period that ended at "
            f"{cycle.ends_at.isoformat()} is not booked yet"
        )
    if cycle.ends_at <= invoice.period_end:
        advanced = replace(current, version=current.version + 1, cycle=cycle.following())
        cost_centers.append_versions(connection, [advanced], actor=_ACTOR)


def _audit_reversals(connection: Connection, known: KnownInvoice, at: datetime) -> None:
    audit.append_audit(
        connection,
        at=at,
        actor=_ACTOR,
        action="invoice.reverse",
        attribution_id=known.attribution_id,
        details={
            "stripe_invoice_id": known.invoice_id,
            "status": known.status.value,
            "credit_cents": known.credit_cents,
            "replaced_by": known.replaced_by,
        },
    )
