"""Stripe's objects in the words of this system: customers, subscriptions, invoices, meter reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NewType

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.credits import CreditCents, credits_to_cents
from usage_tasks.domain.errors import PermanentError

StripeCustomerId = NewType("StripeCustomerId", str)
StripeSubscriptionId = NewType("StripeSubscriptionId", str)
StripeInvoiceId = NewType("StripeInvoiceId", str)

CURRENCIES = ("eur", "usd")
"""These may be asked for before a price is configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCustomer:
    """The data sent to Stripe for an account that begins to pay."""

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
    """The charging model of a price. `meter_id` is None if the price is not metered."""

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
    """The errors that a meter reported about the events that it received in [starts_at, ends_at)."""

    event_id: str
    starts_at: datetime
    ends_at: datetime
    errors: Sequence[MeterErrors]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceLine:
    """One line of an invoice; `quantity` is credits where the price is one of ours, `amount` currency cents.

    `amount` is None if Stripe gives none. `unreadable` is why the line can't be billed, if it can't.
    """

    price_id: str | None
    quantity: Decimal
    line_id: str = ""
    amount: int | None = 0
    unreadable: str | None = None


class InvoiceStatus(StrEnum):
    """Where an invoice stands; it only ever goes down this list."""

    DRAFT = "draft"
    OPEN = "open"
    UNCOLLECTIBLE = "uncollectible"
    PAID = "paid"
    VOID = "void"


class StripeOperation(StrEnum):
    """An operation in Stripe that an operator may request."""

    FINALIZE_INVOICE = "finalize_invoice"
    CANCEL_SUBSCRIPTION = "cancel_subscription"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """The amounts of an invoice, in minor units of its currency."""

    currency: str
    total: int
    due: int
    paid: int
    remaining: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """An invoice as Stripe had it at `fetched_at`. `finalized_at` is None for a draft.

    Each of the instants stays once it is there: an invoice that was paid after it was given up has both.
    """

    invoice_id: StripeInvoiceId
    customer_id: StripeCustomerId
    subscription_id: StripeSubscriptionId | None
    status: InvoiceStatus
    created_at: datetime
    period_start: datetime
    period_end: datetime
    finalized_at: datetime | None
    paid_at: datetime | None
    voided_at: datetime | None
    uncollectible_at: datetime | None
    replaced_by: StripeInvoiceId | None
    amounts: Amounts
    attempts: int
    lines: Sequence[InvoiceLine]
    fetched_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedInvoice:
    """The fields of a listed invoice that decide whether it must be fetched.

    The status is the text from Stripe: an unknown status fails when the invoice is fetched, not the whole list.
    `attempts` counts the attempts to collect it.
    """

    invoice_id: StripeInvoiceId
    subscription_id: StripeSubscriptionId | None
    status: str
    created_at: datetime
    finalized_at: datetime | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicePage:
    """One page of a list of invoices, newest first; `listed_at` is by Stripe's clock, None if it did not show it."""

    invoices: Sequence[ListedInvoice]
    more: bool
    listed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStanding:
    """A subscription as Stripe had it at `fetched_at`. An ended subscription never comes back."""

    subscription_id: StripeSubscriptionId
    customer_id: StripeCustomerId
    status: str
    ended_at: datetime | None
    latest_invoice_id: StripeInvoiceId | None
    price_ids: Sequence[str]
    current_period_start: datetime | None
    current_period_end: datetime | None
    fetched_at: datetime


def invoiced_cents(invoice: Invoice, our_prices: frozenset[str]) -> CreditCents:
    """Add up the credits an invoice bills: only lines of our prices are credits. Source: docs/lessons.md.

    Raises PermanentError for a line that may be ours and can't be read.
    """
    return credits_to_cents(billed_credits(invoice.lines, our_prices))


def billed_credits(lines: Sequence[InvoiceLine], our_prices: frozenset[str]) -> Decimal:
    """Add up the quantities of the lines of our prices; PermanentError for a line that may be ours and can't be read.

    A line of a subscription without a price may be ours.
    """
    ours = [line for line in lines if line.price_id in our_prices or line.price_id is None]
    unreadable = [line.unreadable for line in ours if line.unreadable is not None]
    if unreadable:
        raise PermanentError("; ".join(unreadable))
    return sum((line.quantity for line in ours if line.price_id is not None), start=Decimal(0))
