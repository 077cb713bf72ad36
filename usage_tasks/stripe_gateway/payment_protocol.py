"""The services' calls of Stripe about payers and their money: holds, tax, disputes, refunds, credit notes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.customers import PriceInformation, StripeCustomer
from usage_tasks.domain.disputes import Dispute, DisputeId
from usage_tasks.domain.holds import Hold, PaymentIntentId
from usage_tasks.domain.payments import StripeCustomerId, StripeInvoiceId, StripeSubscriptionId
from usage_tasks.domain.reversals import CreditNote, CreditNoteId, Refund, RefundId
from usage_tasks.domain.stripe_objects import EventFacts, InvoicePreview, ObjectPage


class PaymentGateway(Protocol):
    """Errors are those of StripeGateway; NotFoundError for what is not there, DeclinedError for a bank's no."""

    def get_customer(self, customer_id: StripeCustomerId) -> StripeCustomer:
        """Fetch a customer as it is now, with its tax state and the subscriptions that are not over."""
        ...

    def search_customers(self, attribution_id: AttributionId) -> Sequence[StripeCustomer]:
        """Find an account's customers by their metadata. A new customer may be missing for an hour."""
        ...

    def list_recent_customers(self, attribution_id: AttributionId) -> Sequence[StripeCustomerId]:
        """Find an account's customers among the newest ones, which a search may not know yet.

        Raises RetryableError if there are so many new customers that both may miss ours.
        """
        ...

    def adopt_payment_method(self, customer_id: StripeCustomerId, payment_method_id: str) -> None:
        """Make a payment method the customer's default, and its address, where it has one, the customer's."""
        ...

    def create_hold(self, customer_id: StripeCustomerId, *, amount: int, currency: str, idempotency_key: str) -> Hold:
        """Ask for a hold of `amount` minor units that the payer is to confirm.

        The same key answers with the same hold as it is now; SpentKeyError if there is none to answer with.
        """
        ...

    def get_hold(self, payment_intent_id: PaymentIntentId) -> Hold:
        """Fetch a hold as it is now."""
        ...

    def release_hold(self, payment_intent_id: PaymentIntentId) -> None:
        """Release a hold. Do nothing if it is over already."""
        ...

    def set_automatic_tax(self, subscription_id: StripeSubscriptionId, *, enabled: bool) -> None:
        """Switch tax on or off for a subscription's invoices."""
        ...

    def get_price(self, price_id: str) -> PriceInformation:
        """Fetch a price."""
        ...

    def get_dispute(self, dispute_id: DisputeId) -> Dispute:
        """Fetch a dispute as it is now."""
        ...

    def get_refund(self, refund_id: RefundId) -> Refund:
        """Fetch a refund as it is now."""
        ...

    def find_invoice_of(self, payment_intent_id: str) -> StripeInvoiceId | None:
        """Find the invoice that a payment paid, if it paid one."""
        ...

    def get_credit_note(self, credit_note_id: CreditNoteId) -> CreditNote:
        """Fetch a credit note as it is now, with all of its lines."""
        ...

    def preview_invoice(
        self, customer_id: StripeCustomerId, *, subscription_id: StripeSubscriptionId
    ) -> InvoicePreview:
        """Ask what a subscription's next invoice comes to, as far as Stripe's meter knows by now."""
        ...

    def get_event(self, event_id: str) -> EventFacts:
        """Fetch the facts of an event beside its object: the changed fields, and the customer."""
        ...

    def list_disputes(self, *, created_from: datetime, after: str | None, limit: int) -> ObjectPage:
        """List one page of all disputes created since an instant, newest first, going on after a given one."""
        ...

    def list_refunds(self, *, created_from: datetime, after: str | None, limit: int) -> ObjectPage:
        """List one page of all refunds created since an instant, newest first, going on after a given one."""
        ...

    def list_credit_notes(self, *, created_from: datetime, after: str | None, limit: int) -> ObjectPage:
        """List one page of all credit notes created since an instant, newest first, going on after a given one."""
        ...
