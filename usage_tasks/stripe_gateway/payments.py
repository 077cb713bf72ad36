"""The live client's calls about payers and their money. Nothing of a card or an address leaves this module."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

import stripe

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.customers import PriceInformation, StripeCustomer
from usage_tasks.domain.disputes import Dispute, DisputeId, parse_status
from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.holds import HOLD_CURRENCY_CENTS, Hold, PaymentIntentId
from usage_tasks.domain.payments import StripeCustomerId, StripeInvoiceId, StripeSubscriptionId
from usage_tasks.domain.reversals import CreditedLine, CreditNote, CreditNoteId, Refund, RefundId
from usage_tasks.domain.stripe_objects import EventFacts, InvoicePreview
from usage_tasks.stripe_gateway.reading import id_of, metadata_of, moment, read_customer, read_hold, read_line

if TYPE_CHECKING:
    from stripe.params import CustomerUpdateParams

DESCRIPTION_KEY: Final = "human_readable_description"
_ADDRESS: Final = ("city", "country", "line1", "line2", "postal_code", "state")
_OVER: Final = ("canceled", "succeeded")
_PAGE: Final = 100

Result = TypeVar("Result")


class PaymentCalls:
    """See PaymentGateway for what each call promises."""

    def _call(self, operation: str, call: Callable[[stripe.StripeClient], Result]) -> Result:
        raise NotImplementedError

    def get_customer(self, customer_id: StripeCustomerId) -> StripeCustomer:
        fetched_at = datetime.now(tz=UTC)
        found = self._call(
            "customers.retrieve",
            lambda client: client.v1.customers.retrieve(customer_id, {"expand": ["tax", "subscriptions"]}),
        )
        return read_customer(found, fetched_at=fetched_at)

    def search_customers(self, attribution_id: AttributionId) -> Sequence[StripeCustomer]:
        fetched_at = datetime.now(tz=UTC)
        query = f"metadata['attributionId']:'{attribution_id}'"
        expand = ["data.tax", "data.subscriptions"]
        found = self._call(
            "customers.search",
            lambda client: client.v1.customers.search({"query": query, "expand": expand, "limit": _PAGE}),
        )
        return [read_customer(customer, fetched_at=fetched_at) for customer in found.data]

    def adopt_payment_method(self, customer_id: StripeCustomerId, payment_method_id: str) -> None:
        method = self._call(
            "payment_methods.retrieve", lambda client: client.v1.payment_methods.retrieve(payment_method_id)
        )
        if method.customer is None:
            self._call(
                "payment_methods.attach",
                lambda client: client.v1.payment_methods.attach(payment_method_id, {"customer": customer_id}),
            )
        changes: CustomerUpdateParams = {"invoice_settings": {"default_payment_method": payment_method_id}}
        address = method.billing_details.address
        if address is not None and address.country is not None:
            changes["address"] = {name: address[name] for name in _ADDRESS if address[name]}  # type: ignore[typeddict-item]  # the names are its keys
        self._call("customers.update", lambda client: client.v1.customers.update(customer_id, changes))

    def create_hold(self, customer_id: StripeCustomerId, *, currency: str, idempotency_key: str) -> Hold:
        made = self._call(
            "payment_intents.create",
            lambda client: client.v1.payment_intents.create(
                {
                    "amount": HOLD_CURRENCY_CENTS,
                    "currency": currency,
                    "customer": customer_id,
                    "allowed_payment_method_types": ["card"],
                    "capture_method": "manual",
                    "setup_future_usage": "off_session",
                },
                {"idempotency_key": idempotency_key},
            ),
        )
        return read_hold(made)

    def get_hold(self, payment_intent_id: PaymentIntentId) -> Hold:
        found = self._call(
            "payment_intents.retrieve", lambda client: client.v1.payment_intents.retrieve(payment_intent_id)
        )
        return read_hold(found)

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
        amount, recurring = found.unit_amount_decimal, found.recurring
        return PriceInformation(
            price_id=found.id,
            currency=found.currency,
            active=found.active,
            meter_id=None if recurring is None else recurring.meter,
            interval=None if recurring is None else recurring.interval,
            unit_amount=None if amount is None else Decimal(amount),
            human_readable_description=metadata_of(found).get(DESCRIPTION_KEY, ""),
        )

    def get_dispute(self, dispute_id: DisputeId) -> Dispute:
        found = self._call(
            "disputes.retrieve",
            lambda client: client.v1.disputes.retrieve(dispute_id, {"expand": ["payment_intent"]}),
        )
        payer = getattr(found.payment_intent, "customer", None)
        return Dispute(
            dispute_id=DisputeId(found.id),
            customer_id=None if payer is None else StripeCustomerId(id_of(payer)),
            status=parse_status(found.status),
            reason=found.reason,
            amount=found.amount,
            currency=found.currency,
            created_at=moment(found.created),
        )

    def get_refund(self, refund_id: RefundId) -> Refund:
        found = self._call(
            "refunds.retrieve",
            lambda client: client.v1.refunds.retrieve(refund_id, {"expand": ["payment_intent"]}),
        )
        intent = found.payment_intent
        payer = getattr(intent, "customer", None)
        return Refund(
            refund_id=RefundId(found.id),
            status=found.status or "pending",
            amount=found.amount,
            currency=found.currency,
            payment_intent_id=None if intent is None else id_of(intent),
            customer_id=None if payer is None else StripeCustomerId(id_of(payer)),
            created_at=moment(found.created),
        )

    def find_invoice_of(self, payment_intent_id: str) -> StripeInvoiceId | None:
        found = self._call(
            "invoice_payments.list",
            lambda client: client.v1.invoice_payments.list(
                {"payment": {"type": "payment_intent", "payment_intent": payment_intent_id}, "limit": 1}
            ),
        )
        return StripeInvoiceId(id_of(found.data[0].invoice)) if found.data else None

    def get_credit_note(self, credit_note_id: CreditNoteId) -> CreditNote:
        found = self._call("credit_notes.retrieve", lambda client: client.v1.credit_notes.retrieve(credit_note_id))
        if found.lines.has_more:
            raise PermanentError(f"credit note {credit_note_id}: more lines than it shows, which a person must enter")
        return CreditNote(
            credit_note_id=CreditNoteId(found.id),
            invoice_id=StripeInvoiceId(id_of(found.invoice)),
            customer_id=StripeCustomerId(id_of(found.customer)),
            voided=found.status == "void",
            amount=found.amount,
            currency=found.currency,
            lines=tuple(
                CreditedLine(invoice_line_id=getattr(line, "invoice_line_item", None), amount=line.amount)
                for line in found.lines.data
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
        return InvoicePreview(
            currency=found.currency,
            total=found.total,
            period_start=moment(found.period_start),
            period_end=moment(found.period_end),
            lines=tuple(read_line(line) for line in found.lines.data),
        )

    def get_event(self, event_id: str) -> EventFacts:
        found = self._call("events.retrieve", lambda client: client.v1.events.retrieve(event_id))
        fetched: dict[str, Any] = found.data.object.to_dict(for_json=True)
        before = getattr(found.data, "previous_attributes", None)
        payer = fetched.get("id") if fetched.get("object") == "customer" else fetched.get("customer")
        return EventFacts(
            event_id=found.id,
            type=found.type,
            object_id=fetched.get("id"),
            customer_id=StripeCustomerId(payer) if isinstance(payer, str) else None,
            changed=frozenset() if before is None else frozenset(before.to_dict()),
            alert_id=(fetched.get("alert") or {}).get("id"),
            value=fetched.get("value"),
        )
