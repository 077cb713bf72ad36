"""invoice.*: the invoice as it is now into the ledger; what went wrong with it is announced once."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.announcements import InvoiceFinalizationFailed, InvoiceNeedsAttention, PaymentActionRequired
from usage_tasks.domain.payments import Invoice, InvoiceStatus, StripeInvoiceId
from usage_tasks.services.payments.context import Handler, StripeContext, Write, subject_of
from usage_tasks.services.payments.reflect_invoice import Effect, reflect_invoice
from usage_tasks.storage.inbox.events import InboxEvent
from usage_tasks.storage.operations import outbox
from usage_tasks.storage.payments import subscriptions

# The announcement to the platform if the invoice is still in this state when the event is handled.
_ANNOUNCED: Final[Mapping[str, tuple[InvoiceStatus, type[InvoiceNeedsAttention]]]] = {
    "invoice.finalization_failed": (InvoiceStatus.DRAFT, InvoiceFinalizationFailed),
    "invoice.payment_action_required": (InvoiceStatus.OPEN, PaymentActionRequired),
}


def _reflect(context: StripeContext, event: InboxEvent) -> Write:
    invoice = context.stripe.get_invoice(StripeInvoiceId(subject_of(event)))
    failed_at = _failed_at(event, invoice, at=context.at) if event.type == "invoice.payment_failed" else None

    def write(connection: Connection) -> Effect:
        effect = reflect_invoice(connection, invoice, terms=context.terms, at=context.at, failed_at=failed_at)
        if event.type in _ANNOUNCED:
            _announce(connection, invoice, *_ANNOUNCED[event.type])
        return effect

    return write


def _failed_at(event: InboxEvent, invoice: Invoice, *, at: datetime) -> datetime:
    """Return when paying an invoice failed, by the event, but not before it was final nor after `at`.

    The event's own instant is not to be believed: dunning begins at it, and a suspension follows.
    """
    failed_at = min(event.created_at, at)
    return failed_at if invoice.finalized_at is None else max(failed_at, invoice.finalized_at)


def _announce(
    connection: Connection, invoice: Invoice, status: InvoiceStatus, message: type[InvoiceNeedsAttention]
) -> None:
    if invoice.status is not status or invoice.subscription_id is None:
        return
    owner = subscriptions.find_subscription(connection, invoice.subscription_id)
    if owner is not None:
        made = message(attribution_id=owner.attribution_id, stripe_invoice_id=invoice.invoice_id)
        outbox.announce(connection, made, once_per=invoice.invoice_id)


HANDLERS: Final[Mapping[str, Handler]] = dict.fromkeys(
    (
        "invoice.created",
        "invoice.finalized",
        "invoice.finalization_failed",
        "invoice.paid",
        "invoice.payment_failed",
        "invoice.payment_action_required",
        "invoice.voided",
        "invoice.marked_uncollectible",
    ),
    _reflect,
)
