"""Stripe's objects read into the domain's words; whatever does not fit is a PermanentError that names it."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import wraps
from typing import ParamSpec, TypeVar

import stripe

from usage_tasks.domain.errors import PermanentError
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
from usage_tasks.stripe_gateway.reading import id_of, moment, read_line

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _named(read: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let an object that is not as Stripe describes it be a PermanentError: it is parked, and no bug of a run."""

    @wraps(read)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return read(*args, **kwargs)
        except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise PermanentError(f"stripe: {read.__name__}: {type(error).__name__}: {error}") from error

    return checked


@_named
def read_invoice(found: stripe.Invoice, lines: Sequence[stripe.InvoiceLineItem], *, fetched_at: datetime) -> Invoice:
    """Read an invoice and its lines; `fetched_at` is before the first of the calls that brought them."""
    transitions = found.status_transitions
    revision = getattr(found, "latest_revision", None)
    return Invoice(
        invoice_id=StripeInvoiceId(id_of(found)),
        customer_id=StripeCustomerId(id_of(found.customer)),
        subscription_id=_subscription_of(found),
        status=_status_of(found),
        created_at=moment(found.created),
        period_start=moment(found.period_start),
        period_end=moment(found.period_end),
        finalized_at=_optional_moment(transitions.finalized_at),
        paid_at=_optional_moment(transitions.paid_at),
        voided_at=_optional_moment(transitions.voided_at),
        uncollectible_at=_optional_moment(transitions.marked_uncollectible_at),
        replaced_by=None if revision is None else StripeInvoiceId(id_of(revision)),
        amounts=Amounts(
            currency=found.currency,
            total=found.total,
            due=found.amount_due,
            paid=found.amount_paid,
            remaining=found.amount_remaining,
        ),
        attempts=found.attempt_count,
        lines=tuple(read_line(line) for line in lines),
        fetched_at=fetched_at,
    )


@_named
def read_listed_invoice(found: stripe.Invoice) -> ListedInvoice:
    """Read of an invoice in a list what tells whether it is to be fetched."""
    return ListedInvoice(
        invoice_id=StripeInvoiceId(id_of(found)),
        subscription_id=_subscription_of(found),
        status=found.status or "",
        created_at=moment(found.created),
        finalized_at=_optional_moment(found.status_transitions.finalized_at),
        attempts=found.attempt_count,
    )


@_named
def read_subscription(found: stripe.Subscription, *, fetched_at: datetime) -> SubscriptionStanding:
    """Read a subscription; its period is that of its first item."""
    items = found["items"].data
    invoice = found.latest_invoice
    return SubscriptionStanding(
        subscription_id=StripeSubscriptionId(id_of(found)),
        customer_id=StripeCustomerId(id_of(found.customer)),
        status=found.status,
        ended_at=_optional_moment(found.ended_at),
        latest_invoice_id=None if invoice is None else StripeInvoiceId(id_of(invoice)),
        price_ids=tuple(id_of(item.price) for item in items),
        current_period_start=moment(items[0].current_period_start) if items else None,
        current_period_end=moment(items[0].current_period_end) if items else None,
        fetched_at=fetched_at,
    )


def _optional_moment(unix_seconds: int | None) -> datetime | None:
    return None if unix_seconds is None else moment(unix_seconds)


def _status_of(found: stripe.Invoice) -> InvoiceStatus:
    try:
        return InvoiceStatus(found.status or "")
    except ValueError as error:
        allowed = ", ".join(InvoiceStatus)
        raise PermanentError(f"stripe invoice {found.id}: status {found.status!r} is not known: {allowed}") from error


def _subscription_of(found: stripe.Invoice) -> StripeSubscriptionId | None:
    details = found.parent.subscription_details if found.parent is not None else None
    subscription = details.subscription if details is not None else None
    return None if subscription is None else StripeSubscriptionId(id_of(subscription))
