"""The services' calls of Stripe, in the domain's words."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

from usage_tasks.domain.events import EventKind, EventPage
from usage_tasks.domain.payments import (
    Invoice,
    InvoicePage,
    Meter,
    MeterErrorReport,
    MeterEvent,
    NewCustomer,
    StripeCustomerId,
    StripeInvoiceId,
    StripeSubscriptionId,
    Subscription,
    SubscriptionStanding,
    UsagePrice,
)
from usage_tasks.stripe_gateway.payment_protocol import PaymentGateway


class StripeGateway(PaymentGateway, Protocol):
    """Every call may raise RetryableError (call again with the same key) or PermanentError (never succeeds).

    A call with a key raises SpentKeyError if the key is spent: it was used with other arguments, or Stripe
    stored an error under it, or its object is gone.
    """

    def create_customer(self, customer: NewCustomer, *, idempotency_key: str) -> StripeCustomerId:
        """Make a customer; the same key answers with the same customer, unless it was deleted since."""
        ...

    def create_subscription(
        self, customer_id: StripeCustomerId, *, price_id: str, idempotency_key: str, automatic_tax: bool = False
    ) -> Subscription:
        """Subscribe a customer to one metered price.

        The same key, with the same terms, answers with the same subscription, unless it has ended since.
        """
        ...

    def send_meter_event(self, event: MeterEvent) -> None:
        """Send a customer's quantity to the meter. An identifier that Stripe knows already counts as delivered.

        Raises TooEarlyError or TooOldError if Stripe's clock differs too much from the event's time.
        """
        ...

    def get_invoice(self, invoice_id: StripeInvoiceId) -> Invoice:
        """Fetch an invoice as it is now, with all pages of its lines."""
        ...

    def list_invoices(
        self, *, created_from: datetime | None, created_until: datetime, after: StripeInvoiceId | None, limit: int
    ) -> InvoicePage:
        """List one page of all invoices created within an interval, newest first, going on after a given one."""
        ...

    def finalize_invoice(self, invoice_id: StripeInvoiceId, *, idempotency_key: str) -> None:
        """Finalize a draft now and let Stripe collect it."""
        ...

    def get_subscription(self, subscription_id: StripeSubscriptionId) -> SubscriptionStanding:
        """Fetch a subscription as it is now."""
        ...

    def cancel_subscription(self, subscription_id: StripeSubscriptionId) -> None:
        """End a subscription now, with a last invoice for the usage of its period. Do nothing if it has ended."""
        ...

    def list_events(self, kind: EventKind, *, created_from: datetime, cursor: str | None, limit: int) -> EventPage:
        """List one page of all events since an instant, newest first. Stripe keeps them for 30 days."""
        ...

    def find_meter(self, event_name: str) -> Meter | None:
        """Fetch the meter for events of this name: the active one, else an inactive one, or None."""
        ...

    def find_usage_price(self, price_id: str) -> UsagePrice | None:
        """Fetch what a price charges by; None if there is none of this id."""
        ...

    def get_metered_quantity(
        self, meter_id: str, customer_id: StripeCustomerId, *, start: datetime, end: datetime
    ) -> Decimal:
        """Return a meter's value for a customer within [start, end), both whole minutes; 0 without events."""
        ...

    def get_meter_errors(self, event_id: str) -> MeterErrorReport:
        """Fetch what a meter complained of in a thin event; PermanentError for an event of another type."""
        ...

    def find_clock_difference(self) -> timedelta | None:
        """Return how far this machine's clock is ahead of Stripe's, by the latest answer to this thread, or None."""
        ...
