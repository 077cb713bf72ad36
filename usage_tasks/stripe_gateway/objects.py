"""Stripe's invoices and subscriptions read into the domain's words."""

from collections.abc import Sequence
from datetime import datetime

from usage_tasks.domain.payments import (
    Amounts,
    Invoice,
    InvoiceStatus,
    ListedInvoice,
    StripeCustomerId,
    StripeInvoiceId,
    StripeSubscriptionId,
    SubscriptionStanding,
)
from usage_tasks.stripe_gateway.fields import Fields
from usage_tasks.stripe_gateway.reading import items_of, read_line


def read_invoice(invoice: Fields, lines: Sequence[Fields], *, fetched_at: datetime) -> Invoice:
    """Read an invoice and its lines; `fetched_at` is before the first of the calls that brought them."""
    transitions = invoice.object("status_transitions")
    revision = invoice.find_reference("latest_revision")
    return Invoice(
        invoice_id=StripeInvoiceId(invoice.text("id")),
        customer_id=StripeCustomerId(invoice.reference("customer")),
        subscription_id=_subscription_of(invoice) or _subscription_of_lines(lines),
        status=_status_of(invoice),
        created_at=invoice.moment("created"),
        period_start=invoice.moment("period_start"),
        period_end=invoice.moment("period_end"),
        finalized_at=transitions.find_moment("finalized_at"),
        paid_at=transitions.find_moment("paid_at"),
        voided_at=transitions.find_moment("voided_at"),
        uncollectible_at=transitions.find_moment("marked_uncollectible_at"),
        replaced_by=None if revision is None else StripeInvoiceId(revision),
        amounts=Amounts(
            currency=invoice.text("currency"),
            total=invoice.integer("total"),
            due=invoice.integer("amount_due"),
            paid=invoice.integer("amount_paid"),
            remaining=invoice.integer("amount_remaining"),
        ),
        attempts=invoice.integer("attempt_count"),
        lines=tuple(read_line(line) for line in lines),
        fetched_at=fetched_at,
    )


def read_listed_invoice(invoice: Fields) -> ListedInvoice:
    """Read the fields of a listed invoice that decide if it must be fetched."""
    first_lines = invoice.find_object("lines")
    lines = [] if first_lines is None else first_lines.objects("data", "line_item")
    transitions = invoice.object("status_transitions")
    return ListedInvoice(
        invoice_id=StripeInvoiceId(invoice.text("id")),
        subscription_id=_subscription_of(invoice) or _subscription_of_lines(lines),
        status=invoice.find_text("status") or "",
        created_at=invoice.moment("created"),
        finalized_at=transitions.find_moment("finalized_at"),
        attempts=invoice.integer("attempt_count"),
    )


def read_subscription(subscription: Fields, *, fetched_at: datetime) -> SubscriptionStanding:
    """Read a subscription; its period is that of its first item."""
    items = items_of(subscription)
    invoice = subscription.find_reference("latest_invoice")
    return SubscriptionStanding(
        subscription_id=StripeSubscriptionId(subscription.text("id")),
        customer_id=StripeCustomerId(subscription.reference("customer")),
        status=subscription.text("status"),
        ended_at=subscription.find_moment("ended_at"),
        latest_invoice_id=None if invoice is None else StripeInvoiceId(invoice),
        price_ids=tuple(item.reference("price") for item in items),
        current_period_start=items[0].moment("current_period_start") if items else None,
        current_period_end=items[0].moment("current_period_end") if items else None,
        fetched_at=fetched_at,
    )


def _status_of(invoice: Fields) -> InvoiceStatus:
    status = invoice.find_text("status")
    try:
        return InvoiceStatus(status or "")
    except ValueError as error:
        raise invoice.wrong("status", f"one of {', '.join(InvoiceStatus)}", word=status) from error


def _subscription_of(invoice: Fields) -> StripeSubscriptionId | None:
    """Find the subscription that an invoice is of: newer versions have it in `parent`, older ones beside it."""
    parent = invoice.find_object("parent")
    details = None if parent is None else parent.find_object("subscription_details")
    found = invoice.find_reference("subscription") if details is None else details.reference("subscription")
    return None if found is None else StripeSubscriptionId(found)


def _subscription_of_lines(lines: Sequence[Fields]) -> StripeSubscriptionId | None:
    """Find the subscription that the items billed by an invoice are of, where the invoice itself names none."""
    parents = [parent for line in lines if (parent := line.find_object("parent")) is not None]
    items = [item for parent in parents if (item := parent.find_object("subscription_item_details")) is not None]
    found = {subscription for item in items if (subscription := item.find_reference("subscription")) is not None}
    return StripeSubscriptionId(found.pop()) if len(found) == 1 else None
