"""Small readings of the SDK's objects that every call needs."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import stripe

from usage_tasks.domain.customers import HeldSubscription, StripeCustomer, SubscribedItem, TaxState
from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.holds import Hold, PaymentIntentId
from usage_tasks.domain.payments import InvoiceLine, StripeCustomerId, StripeSubscriptionId

_OVER: Final = ("canceled", "incomplete_expired")


def id_of(reference: object) -> str:
    """A reference is an id or, where expanded, the object."""
    identifier = reference if isinstance(reference, str) else getattr(reference, "id", None)
    if not isinstance(identifier, str):
        raise PermanentError(f"stripe: a reference without an id: {type(reference).__name__}")
    return identifier


def moment(unix_seconds: int) -> datetime:
    """Stripe's times are whole seconds of UTC."""
    return datetime.fromtimestamp(unix_seconds, tz=UTC)


def read_line(line: stripe.InvoiceLineItem) -> InvoiceLine:
    """A line of an invoice: its exact quantity, and what it costs."""
    details = line.pricing.price_details if line.pricing is not None else None
    return InvoiceLine(
        price_id=None if details is None else id_of(details.price),
        quantity=Decimal(0) if line.quantity_decimal is None else Decimal(line.quantity_decimal),
        line_id=line.id,
        amount=getattr(line, "amount", 0),
    )


def read_customer(found: stripe.Customer, *, fetched_at: datetime) -> StripeCustomer:
    """A customer, as far as decisions need one; `fetched_at` is before the call that brought it."""
    customer_id = StripeCustomerId(id_of(found))
    if getattr(found, "deleted", False):
        return StripeCustomer(customer_id=customer_id, fetched_at=fetched_at, deleted=True)
    metadata = metadata_of(found)
    settings, tax = found.invoice_settings, getattr(found, "tax", None)
    subscriptions = getattr(found, "subscriptions", None)
    return StripeCustomer(
        customer_id=customer_id,
        fetched_at=fetched_at,
        attribution_id=metadata.get("attributionId"),
        preferred_currency=metadata.get("preferredCurrency"),
        billing_creator_user_id=metadata.get("billingCreatorUserId"),
        tax_state=None if tax is None else _tax_state(tax.automatic_tax),
        has_payment_method=settings is not None and settings.default_payment_method is not None,
        subscriptions=tuple(
            _held_subscription(one)
            for one in (subscriptions.data if subscriptions is not None else ())
            if one.status not in _OVER
        ),
    )


def _held_subscription(found: stripe.Subscription) -> HeldSubscription:
    prices = [item.price for item in found["items"].data]
    return HeldSubscription(
        subscription_id=StripeSubscriptionId(found.id),
        automatic_tax=bool(found.automatic_tax.enabled),
        items=tuple(
            SubscribedItem(
                price_id=price.id, meter_id=None if price.recurring is None else getattr(price.recurring, "meter", None)
            )
            for price in prices
        ),
    )


def _tax_state(text: str) -> TaxState:
    try:
        return TaxState(text)
    except ValueError as error:
        raise PermanentError(f"tax state {text!r} is not allowed: {', '.join(TaxState)}") from error


def metadata_of(found: stripe.Customer | stripe.Price) -> dict[str, str]:
    """What we once wrote on an object."""
    return dict(found.metadata.to_dict()) if found.metadata is not None else {}


def read_hold(intent: stripe.PaymentIntent) -> Hold:
    """A payment intent that holds an amount."""
    method = intent.payment_method
    error = intent.last_payment_error if intent.status == "requires_payment_method" else None
    return Hold(
        payment_intent_id=PaymentIntentId(intent.id),
        customer_id=StripeCustomerId(id_of(intent.customer)),
        status=intent.status,
        client_secret=intent.client_secret or "",
        payment_method_id=None if method is None else id_of(method),
        decline_code=None if error is None else getattr(error, "decline_code", None) or error.code,
    )
