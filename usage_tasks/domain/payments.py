"""What the system knows of Stripe, in its own words: customers, subscriptions, invoices, meter reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NewType

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.credits import CreditCents, credits_to_cents

StripeCustomerId = NewType("StripeCustomerId", str)
StripeSubscriptionId = NewType("StripeSubscriptionId", str)
StripeInvoiceId = NewType("StripeInvoiceId", str)

CURRENCIES = ("eur", "usd")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCustomer:
    """What Stripe is told of an account that begins to pay."""

    attribution_id: AttributionId
    email: str
    name: str
    currency: str
    billing_creator_user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A customer's subscription: its one metered item of ours and the period that item is in."""

    subscription_id: StripeSubscriptionId
    customer_id: StripeCustomerId
    price_id: str
    current_period_start: datetime
    current_period_end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterEvent:
    """The absolute balance of a customer, in whole credits, as of an instant."""

    identifier: str
    customer_id: StripeCustomerId
    quantity: int
    as_of: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A meter as Stripe has it now."""

    meter_id: str
    event_name: str
    formula: str
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UsagePrice:
    """By what a price charges. `meter_id` is None for one that is not metered."""

    price_id: str
    active: bool
    currency: str
    interval: str | None
    interval_count: int | None
    usage_type: str | None
    meter_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterErrors:
    """Events that a meter could not count, for one reason: how many, and the identifiers of some of them."""

    code: str
    count: int
    identifiers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterErrorReport:
    """What a meter complained of, about the events that it took in [starts_at, ends_at)."""

    event_id: str
    starts_at: datetime
    ends_at: datetime
    errors: Sequence[MeterErrors]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """One line of an invoice; `quantity` is credits where the price is one of ours."""

    price_id: str | None
    quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """An invoice as Stripe has it now. `finalized_at` is None for a draft."""

    invoice_id: StripeInvoiceId
    customer_id: StripeCustomerId
    subscription_id: StripeSubscriptionId | None
    status: str
    finalized_at: datetime | None
    period_end: datetime
    lines: Sequence[InvoiceLine]


def invoiced_cents(invoice: Invoice, our_prices: frozenset[str]) -> CreditCents:
    """Add up the credits an invoice bills: only lines of our prices are credits. Source: LESSONS 14."""
    credits_billed = sum((line.quantity for line in invoice.lines if line.price_id in our_prices), start=Decimal(0))
    return credits_to_cents(credits_billed)
