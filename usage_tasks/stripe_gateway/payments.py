"""The live client's calls about payers and their money. Nothing of a card or an address leaves this module."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

import stripe

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.customers import PriceInformation, StripeCustomer
from usage_tasks.domain.disputes import Dispute, DisputeId, parse_status
from usage_tasks.domain.errors import NotFoundError, PermanentError, RetryableError, SpentKeyError
from usage_tasks.domain.holds import Hold, PaymentIntentId
from usage_tasks.domain.payments import StripeCustomerId, StripeInvoiceId, StripeSubscriptionId
from usage_tasks.domain.reversals import CreditedLine, CreditNote, CreditNoteId, Refund, RefundId
from usage_tasks.domain.stripe_objects import EventFacts, InvoicePreview
from usage_tasks.stripe_gateway.events import read_event_facts
from usage_tasks.stripe_gateway.fields import Fields
from usage_tasks.stripe_gateway.reading import is_stored_answer, meter_of, read_customer, read_hold, read_line

if TYPE_CHECKING:
    from stripe.params import CustomerUpdateParams

DESCRIPTION_KEY: Final = "human_readable_description"
_ADDRESS: Final = ("city", "country", "line1", "line2", "postal_code", "state")
_OVER: Final = ("canceled", "succeeded")
_PAGE: Final = 100
RECENT_MAX: Final = 1000
"""Look through so many customers, newest first, for a customer that the search does not know yet."""

SEARCH_LATE_MAX: Final = timedelta(hours=1)
"""How late Stripe's search may be, in an outage."""

Result = TypeVar("Result")


class PaymentCalls:
    """See PaymentGateway for what each call promises."""

    def _call(self, operation: str, call: Callable[[stripe.StripeClient], Result]) -> Result:
        raise NotImplementedError

    def _now(self) -> datetime:
        raise NotImplementedError

    def get_customer(self, customer_id: StripeCustomerId) -> StripeCustomer:
        fetched_at = self._now()
        found = self._call(
            "customers.retrieve",
            lambda client: client.v1.customers.retrieve(customer_id, {"expand": ["tax", "subscriptions"]}),
        )
        return read_customer(Fields(found, "customer"), fetched_at=fetched_at)

    def search_customers(self, attribution_id: AttributionId) -> Sequence[StripeCustomer]:
        fetched_at = self._now()
        query = f"metadata['attributionId']:'{attribution_id}'"
        expand = ["data.tax", "data.subscriptions"]
        found = self._call(
            "customers.search",
            lambda client: client.v1.customers.search({"query": query, "expand": expand, "limit": _PAGE}),
        )
        page = Fields(found, "search_result").objects("data", "customer")
        return [read_customer(customer, fetched_at=fetched_at) for customer in page]

    def list_recent_customers(self, attribution_id: AttributionId) -> Sequence[StripeCustomerId]:
        listed = self._call(
            "customers.list",
            lambda client: list(
                islice(client.v1.customers.list({"limit": _PAGE}).auto_paging_iter(), RECENT_MAX),
            ),
        )
        recent = [Fields(each, "customer") for each in listed]
        if len(recent) == RECENT_MAX and recent[0].moment("created") - recent[-1].moment("created") < SEARCH_LATE_MAX:
            raise RetryableError(f"stripe customers.list: {RECENT_MAX} are newer than Stripe's search may be late")
        return [
            StripeCustomerId(each.text("id"))
            for each in recent
            if each.texts("metadata").get("attributionId") == attribution_id
        ]

    def adopt_payment_method(self, customer_id: StripeCustomerId, payment_method_id: str) -> None:
        found = self._call(
            "payment_methods.retrieve", lambda client: client.v1.payment_methods.retrieve(payment_method_id)
        )
        method = Fields(found, "payment_method")
        if method.find_reference("customer") is None:
            self._call(
                "payment_methods.attach",
                lambda client: client.v1.payment_methods.attach(payment_method_id, {"customer": customer_id}),
            )
        changes: CustomerUpdateParams = {"invoice_settings": {"default_payment_method": method.text("id")}}
        details = method.find_object("billing_details")
        address = None if details is None else details.find_object("address")
        if address is not None and address.find_text("country") is not None:
            changes["address"] = {name: text for name in _ADDRESS if (text := address.find_text(name))}  # type: ignore[typeddict-item]  # the names are its keys
        self._call("customers.update", lambda client: client.v1.customers.update(customer_id, changes))

    def create_hold(self, customer_id: StripeCustomerId, *, amount: int, currency: str, idempotency_key: str) -> Hold:
        made = self._call(
            "payment_intents.create",
            lambda client: client.v1.payment_intents.create(
                {
                    "amount": amount,
                    "currency": currency,
                    "customer": customer_id,
                    "allowed_payment_method_types": ["card"],
                    "capture_method": "manual",
                    "setup_future_usage": "off_session",
                },
                {"idempotency_key": idempotency_key},
            ),
        )
        hold = read_hold(Fields(made, "payment_intent"))
        if not is_stored_answer(made):
            return hold
        try:
            return self.get_hold(hold.payment_intent_id)
        except NotFoundError as error:
            raise SpentKeyError(f"hold {hold.payment_intent_id}: is gone from Stripe", answered=True) from error

    def get_hold(self, payment_intent_id: PaymentIntentId) -> Hold:
        found = self._call(
            "payment_intents.retrieve", lambda client: client.v1.payment_intents.retrieve(payment_intent_id)
        )
        return read_hold(Fields(found, "payment_intent"))

    def release_hold(self, payment_intent_id: PaymentIntentId) -> None:
        try:
            self._call("payment_intents.cancel", lambda client: client.v1.payment_intents.cancel(payment_intent_id))
        except PermanentError:
            # Released twice, or by Stripe after a week: what matters is that nothing is held.
            if self.get_hold(payment_intent_id).status not in _OVER:
                raise

    def set_automatic_tax(self, subscription_id: StripeSubscriptionId, *, enabled: bool) -> None:
        self._call(
            "subscriptions.update",
            lambda client: client.v1.subscriptions.update(subscription_id, {"automatic_tax": {"enabled": enabled}}),
        )

    def get_price(self, price_id: str) -> PriceInformation:
        found = self._call("prices.retrieve", lambda client: client.v1.prices.retrieve(price_id))
        price = Fields(found, "price")
        exact, recurring = price.find_decimal("unit_amount_decimal"), price.find_object("recurring")
        return PriceInformation(
            price_id=price.text("id"),
            currency=price.text("currency"),
            active=price.flag("active"),
            meter_id=meter_of(price),
            interval=None if recurring is None else recurring.text("interval"),
            unit_amount=price.find_decimal("unit_amount") if exact is None else exact,
            human_readable_description=price.texts("metadata").get(DESCRIPTION_KEY, ""),
        )

    def get_dispute(self, dispute_id: DisputeId) -> Dispute:
        found = self._call(
            "disputes.retrieve",
            lambda client: client.v1.disputes.retrieve(dispute_id, {"expand": ["payment_intent"]}),
        )
        dispute = Fields(found, "dispute")
        intent = dispute.find_object("payment_intent")
        payer = None if intent is None else intent.find_reference("customer")
        return Dispute(
            dispute_id=DisputeId(dispute.text("id")),
            customer_id=None if payer is None else StripeCustomerId(payer),
            status=parse_status(dispute.text("status")),
            reason=dispute.text("reason"),
            amount=dispute.integer("amount"),
            currency=dispute.text("currency"),
            created_at=dispute.moment("created"),
        )

    def get_refund(self, refund_id: RefundId) -> Refund:
        found = self._call(
            "refunds.retrieve",
            lambda client: client.v1.refunds.retrieve(refund_id, {"expand": ["payment_intent"]}),
        )
        refund = Fields(found, "refund")
        intent = refund.find_object("payment_intent")
        payer = None if intent is None else intent.find_reference("customer")
        payer = payer or refund.find_reference("customer")
        return Refund(
            refund_id=RefundId(refund.text("id")),
            status=refund.find_text("status") or "pending",
            amount=refund.integer("amount"),
            currency=refund.text("currency"),
            payment_intent_id=None if intent is None else intent.text("id"),
            customer_id=None if payer is None else StripeCustomerId(payer),
            created_at=refund.moment("created"),
        )

    def find_invoice_of(self, payment_intent_id: str) -> StripeInvoiceId | None:
        found = self._call(
            "invoice_payments.list",
            lambda client: client.v1.invoice_payments.list(
                {"payment": {"type": "payment_intent", "payment_intent": payment_intent_id}, "limit": 1}
            ),
        )
        payments = Fields(found, "list").objects("data", "invoice_payment")
        return StripeInvoiceId(payments[0].reference("invoice")) if payments else None

    def get_credit_note(self, credit_note_id: CreditNoteId) -> CreditNote:
        found = self._call("credit_notes.retrieve", lambda client: client.v1.credit_notes.retrieve(credit_note_id))
        note = Fields(found, "credit_note")
        lines = note.object("lines")
        if lines.flag("has_more"):
            raise PermanentError(f"credit note {credit_note_id}: more lines than it shows, which a person must enter")
        return CreditNote(
            credit_note_id=CreditNoteId(note.text("id")),
            invoice_id=StripeInvoiceId(note.reference("invoice")),
            customer_id=StripeCustomerId(note.reference("customer")),
            voided=note.text("status") == "void",
            amount=note.integer("amount"),
            currency=note.text("currency"),
            lines=tuple(
                CreditedLine(invoice_line_id=line.find_reference("invoice_line_item"), amount=line.integer("amount"))
                for line in lines.objects("data", "credit_note_line_item")
            ),
        )

    def preview_invoice(
        self, customer_id: StripeCustomerId, *, subscription_id: StripeSubscriptionId
    ) -> InvoicePreview:
        found = self._call(
            "invoices.create_preview",
            lambda client: client.v1.invoices.create_preview(
                {"customer": customer_id, "subscription": subscription_id}
            ),
        )
        preview = Fields(found, "invoice")
        lines = preview.object("lines")
        if lines.flag("has_more"):
            raise PermanentError(f"preview of subscription {subscription_id}: more lines than Stripe shows")
        return InvoicePreview(
            currency=preview.text("currency"),
            total=preview.integer("total"),
            period_start=preview.moment("period_start"),
            period_end=preview.moment("period_end"),
            lines=tuple(read_line(line) for line in lines.objects("data", "line_item")),
        )

    def get_event(self, event_id: str) -> EventFacts:
        found = self._call("events.retrieve", lambda client: client.v1.events.retrieve(event_id))
        return read_event_facts(Fields(found, "event"))
