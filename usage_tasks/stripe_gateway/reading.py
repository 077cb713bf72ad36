"""Readings of Stripe's objects that several calls need: lines, customers, holds, subscriptions."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

import stripe

from usage_tasks.domain.customers import HeldSubscription, StripeCustomer, SubscribedItem, TaxState
from usage_tasks.domain.holds import Hold, PaymentIntentId
from usage_tasks.domain.payments import InvoiceLine, StripeCustomerId, StripeSubscriptionId, Subscription
from usage_tasks.stripe_gateway.errors import is_replayed
from usage_tasks.stripe_gateway.fields import Fields

_OVER: Final = ("canceled", "incomplete_expired")


def is_stored_answer(made: stripe.StripeObject) -> bool:
    """True if an object came as the answer to an earlier call with the same key: it is as it was then."""
    response = made.last_response
    return response is not None and is_replayed(response.headers)


def read_line(line: Fields) -> InvoiceLine:
    """Read a line of an invoice: its exact quantity, and what it costs.

    A line without a price or a quantity is marked `unreadable`; that fails only where the line may be ours.
    """
    unreadable = None
    price_id = _price_of(line)
    quantity = _quantity_of(line)
    amount = line.find_integer("amount")
    if price_id is None and _is_of_subscription(line) and (quantity or amount):
        unreadable = "`pricing.price_details.price`: must name the price of a subscription's line (got nothing)"
    elif quantity is None and price_id is not None:
        unreadable = "`quantity_decimal` or `quantity`: must be a number (got nothing)"
    return InvoiceLine(
        price_id=price_id,
        quantity=Decimal(0) if quantity is None else quantity,
        line_id=line.find_text("id") or "",
        amount=amount,
        unreadable=None if unreadable is None else f"stripe {line.name}: {unreadable}",
    )


def _price_of(line: Fields) -> str | None:
    """Find the price that a line was made with: newer versions have it in `pricing`, older ones in `price`."""
    pricing = line.find_object("pricing")
    details = None if pricing is None else pricing.find_object("price_details")
    return line.find_reference("price") if details is None else details.reference("price")


def _quantity_of(line: Fields) -> Decimal | None:
    """Find how much a line bills: `quantity` is the same number, truncated, and both may be null."""
    exact = line.find_decimal("quantity_decimal")
    return line.find_decimal("quantity") if exact is None else exact


def _is_of_subscription(line: Fields) -> bool:
    parent = line.find_object("parent")
    return parent is not None and parent.find_object("subscription_item_details") is not None


def read_customer(customer: Fields, *, fetched_at: datetime) -> StripeCustomer:
    """Read a customer that was asked for with its tax and subscriptions, as far as decisions need one.

    `fetched_at` is before the call that brought it.
    """
    customer_id = StripeCustomerId(customer.text("id"))
    if customer.find("deleted"):
        return StripeCustomer(customer_id=customer_id, fetched_at=fetched_at, deleted=True)
    metadata = customer.texts("metadata")
    settings, tax = customer.find_object("invoice_settings"), customer.find_object("tax")
    subscriptions = customer.object("subscriptions").objects("data", "subscription")
    return StripeCustomer(
        customer_id=customer_id,
        fetched_at=fetched_at,
        attribution_id=metadata.get("attributionId"),
        preferred_currency=metadata.get("preferredCurrency"),
        billed_currency=customer.find_text("currency"),
        billing_creator_user_id=metadata.get("billingCreatorUserId"),
        tax_state=None if tax is None else _tax_state(tax),
        has_payment_method=settings is not None and settings.find_reference("default_payment_method") is not None,
        subscriptions=tuple(_held_subscription(one) for one in subscriptions if one.text("status") not in _OVER),
    )


def _held_subscription(found: Fields) -> HeldSubscription:
    return HeldSubscription(
        subscription_id=StripeSubscriptionId(found.text("id")),
        automatic_tax=found.object("automatic_tax").flag("enabled"),
        items=tuple(
            SubscribedItem(price_id=price.text("id"), meter_id=meter_of(price))
            for price in (item.object("price") for item in items_of(found))
        ),
    )


def items_of(subscription: Fields) -> Sequence[Fields]:
    """Return the items of a subscription."""
    return subscription.object("items").objects("data", "subscription_item")


def meter_of(price: Fields) -> str | None:
    """Return the meter that a price charges by; None for a price without a meter."""
    recurring = price.find_object("recurring")
    return None if recurring is None else recurring.find_text("meter")


def _tax_state(tax: Fields) -> TaxState:
    state = tax.text("automatic_tax")
    try:
        return TaxState(state)
    except ValueError as error:
        raise tax.wrong("automatic_tax", f"one of {', '.join(TaxState)}", word=state) from error


def read_new_subscription(subscription: Fields, *, price_id: str) -> Subscription:
    """Read a subscription that was just made for one price; its period is that of its item."""
    items = items_of(subscription)
    if not items:
        raise subscription.wrong("items", "a list with the item of our price")
    return Subscription(
        subscription_id=StripeSubscriptionId(subscription.text("id")),
        customer_id=StripeCustomerId(subscription.reference("customer")),
        price_id=price_id,
        current_period_start=items[0].moment("current_period_start"),
        current_period_end=items[0].moment("current_period_end"),
    )


def read_hold(intent: Fields) -> Hold:
    """Read a payment intent that holds an amount."""
    status = intent.text("status")
    error = intent.find_object("last_payment_error") if status == "requires_payment_method" else None
    payer = intent.find_reference("customer")
    return Hold(
        payment_intent_id=PaymentIntentId(intent.text("id")),
        customer_id=None if payer is None else StripeCustomerId(payer),
        status=status,
        client_secret=intent.find_text("client_secret") or "",
        payment_method_id=intent.find_reference("payment_method"),
        decline_code=None if error is None else error.find_text("decline_code") or error.find_text("code"),
    )
