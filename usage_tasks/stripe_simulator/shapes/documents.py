"""The shapes of a subscription, an invoice, its lines and its payment, with every field that Stripe requires."""

from usage_tasks.stripe_simulator.shapes.replies import envelope
from usage_tasks.stripe_simulator.state.world import new_id
from usage_tasks.stripe_simulator.wire.wire import JsonObject


def empty_subscription() -> JsonObject:
    """Return the initial fields of every subscription, with the fields that the simulator never sets."""
    nothing = (
        "application application_fee_percent billing_cycle_anchor_config billing_thresholds cancel_at canceled_at "
        "customer_account days_until_due default_payment_method default_source description ended_at latest_invoice "
        "next_pending_invoice_item_invoice on_behalf_of pause_collection pending_invoice_item_interval "
        "pending_setup_intent pending_update schedule transfer_data trial_end trial_start"
    )
    return {
        "object": "subscription",
        **dict.fromkeys(nothing.split()),
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_schedules": [],
        "cancel_at_period_end": False,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "livemode": False,
        "metadata": {},
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "status": "active",
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
    }


def new_line(subscription: JsonObject, item: JsonObject, *, start: int, end: int) -> JsonObject:
    """A line of a subscription item, not measured and not priced yet."""
    price = item["price"]
    details = {
        "invoice_item": None,
        "proration": False,
        "proration_details": {"credited_items": None},
        "subscription": subscription["id"],
        "subscription_item": item["id"],
    }
    return {
        "id": new_id("line_item"),
        "object": "line_item",
        "amount": 0,
        "currency": price["currency"],
        "description": price["nickname"],
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": item["metadata"],
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": details,
            "type": "subscription_item_details",
        },
        "period": {"start": start, "end": end},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": 0,
        "quantity_decimal": "0",
        "subscription": subscription["id"],
        "subtotal": 0,
        "taxes": [],
    }


def new_invoice(
    subscription: JsonObject, customer: JsonObject, *, at: int, start: int, reason: str, identifier: str
) -> JsonObject:
    """A draft for a subscription's period [start, at), without lines."""
    enabled = subscription["automatic_tax"]["enabled"]
    tax = {"disabled_reason": None, "enabled": enabled, "status": None}
    provider, liability = ("stripe", {"type": "self"}) if enabled else (None, None)
    details = {"metadata": subscription["metadata"], "subscription": subscription["id"]}
    return {
        "id": identifier,
        "object": "invoice",
        "created": at,
        "customer": customer["id"],
        "currency": subscription["currency"],
        "period_start": start,
        "period_end": at,
        "billing_reason": reason,
        "automatic_tax": {**tax, "provider": provider, "liability": liability},
        "parent": {"quote_details": None, "subscription_details": details, "type": "subscription_details"},
        "lines": envelope([], url=f"/v1/invoices/{identifier}/lines"),
        "payments": envelope([], url=f"/v1/invoice_payments?invoice={identifier}"),
        "customer_address": customer.get("address"),
        "customer_email": customer.get("email"),
        "customer_name": customer.get("name"),
        "customer_phone": customer.get("phone"),
        "customer_shipping": customer.get("shipping"),
        "customer_tax_exempt": customer.get("tax_exempt", "none"),
        "test_clock": customer.get("test_clock"),
        "default_payment_method": subscription["default_payment_method"],
        **_unused(),
    }


def _unused() -> JsonObject:
    """Return the initial fields of every draft, with the fields that the simulator never sets."""
    nothing = (
        "account_tax_ids application automatically_finalizes_at custom_fields customer_account default_source "
        "description due_date effective_at ending_balance footer from_invoice hosted_invoice_url invoice_pdf "
        "last_finalization_error latest_revision next_payment_attempt number on_behalf_of receipt_number rendering "
        "shipping_cost shipping_details statement_descriptor webhooks_delivered_at"
    )
    zero = (
        "amount_due amount_overpaid amount_paid amount_paid_off_stripe amount_remaining amount_shipping attempt_count "
        "post_payment_credit_notes_amount pre_payment_credit_notes_amount starting_balance subtotal "
        "subtotal_excluding_tax total total_excluding_tax"
    )
    empty = (
        "customer_tax_ids default_tax_rates discounts total_discount_amounts total_pretax_credit_amounts total_taxes"
    )
    transitions = ("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at")
    return {
        **dict.fromkeys(nothing.split()),
        **dict.fromkeys(zero.split(), 0),
        **{name: [] for name in empty.split()},
        "account_country": "US",
        "account_name": "Simulated account",
        "attempted": False,
        "auto_advance": True,
        "collection_method": "charge_automatically",
        "issuer": {"type": "self"},
        "livemode": False,
        "metadata": {},
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "status": "draft",
        "status_transitions": dict.fromkeys(transitions),
    }


def new_payment(invoice: JsonObject, payment_intent: str, *, at: int) -> JsonObject:
    """The attempt to pay an invoice through a payment intent."""
    return {
        "id": new_id("invoice_payment"),
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": invoice["amount_remaining"],
        "created": at,
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"payment_intent": payment_intent, "type": "payment_intent"},
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }
