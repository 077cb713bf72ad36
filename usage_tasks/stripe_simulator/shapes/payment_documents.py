"""The shapes of payment methods, payment intents, charges, disputes, refunds and credit notes."""

from usage_tasks.stripe_simulator.shapes.cards import Card
from usage_tasks.stripe_simulator.shapes.replies import envelope
from usage_tasks.stripe_simulator.state.world import new_id
from usage_tasks.stripe_simulator.wire.wire import JsonObject

_ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")
_CARD_YEARS = 2040
_EVIDENCE_SECONDS = 9 * 86400


def billing_details(given: JsonObject | None = None) -> JsonObject:
    """Return the owner of a card, with every field present."""
    known = given or {}
    address = {**dict.fromkeys(_ADDRESS), **(known.get("address") or {})}
    return {**{name: known.get(name) for name in ("email", "name", "phone", "tax_id")}, "address": address}


def new_method(card: Card, *, at: int, details: JsonObject | None = None) -> JsonObject:
    """A payment method without a customer; only the last digits of the number are kept."""
    return {
        "id": new_id("payment_method"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": billing_details(details),
        "card": _card(card),
        "created": at,
        "customer": None,
        "livemode": False,
        "metadata": {},
        "type": "card",
    }


def _card(card: Card) -> JsonObject:
    return {
        "brand": card.brand,
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "unchecked"},
        "country": "US",
        "display_brand": card.brand,
        "exp_month": 12,
        "exp_year": _CARD_YEARS,
        "funding": "credit",
        "generated_from": None,
        "last4": card.last4,
        "networks": {"available": [card.brand], "preferred": None},
        "three_d_secure_usage": {"supported": True},
        "wallet": None,
    }


def new_intent(*, amount: int, currency: str, customer: str | None, at: int) -> JsonObject:
    """An intent to take an amount, without a payment method yet."""
    identifier = new_id("payment_intent")
    nothing = (
        "application application_fee_amount canceled_at cancellation_reason description last_payment_error "
        "latest_charge next_action on_behalf_of payment_method processing receipt_email review setup_future_usage "
        "shipping statement_descriptor statement_descriptor_suffix transfer_data transfer_group"
    )
    return {
        "id": identifier,
        "object": "payment_intent",
        **dict.fromkeys(nothing.split()),
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0,
        "automatic_payment_methods": None,
        "capture_method": "automatic",
        # Its holder may finish this one payment: a secret for the browser.
        "client_secret": f"{identifier}_secret_{new_id('payment_intent').rpartition('_')[2]}",
        "confirmation_method": "automatic",
        "created": at,
        "currency": currency,
        "customer": customer,
        "livemode": False,
        "metadata": {},
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "status": "requires_payment_method",
    }


def new_charge(intent: JsonObject, method: JsonObject, card: Card, *, at: int) -> JsonObject:
    """Return the charge of an attempt to take the amount of an intent."""
    declined = card.code is not None
    captured = not declined and intent["capture_method"] != "manual"
    nothing = (
        "application application_fee application_fee_amount balance_transaction failure_balance_transaction "
        "on_behalf_of receipt_email receipt_number receipt_url review shipping source_transfer statement_descriptor "
        "statement_descriptor_suffix transfer_data transfer_group calculated_statement_descriptor"
    )
    return {
        "id": new_id("charge"),
        "object": "charge",
        **dict.fromkeys(nothing.split()),
        "amount": intent["amount"],
        "amount_captured": intent["amount"] if captured else 0,
        "amount_refunded": 0,
        "billing_details": method["billing_details"],
        "captured": captured,
        "created": at,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_code": card.code,
        "failure_message": "Your card was declined." if declined else None,
        "fraud_details": {},
        "livemode": False,
        "metadata": intent["metadata"],
        "outcome": {
            "network_status": "declined_by_network" if declined else "approved_by_network",
            "reason": card.decline_code,
            "type": "issuer_declined" if declined else "authorized",
        },
        "paid": not declined,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {"card": {"brand": card.brand, "last4": card.last4}, "type": "card"},
        "refunded": False,
        "status": "failed" if declined else "succeeded",
    }


def new_dispute(charge: JsonObject, *, reason: str, inquiry: bool, at: int) -> JsonObject:
    """A dispute over the whole of a charge; an inquiry asks before it takes the money."""
    card = charge["payment_method_details"]["card"]
    case = {"brand": card["brand"], "case_type": "inquiry" if inquiry else "chargeback", "network_reason_code": "10.4"}
    return {
        "id": new_id("dispute"),
        "object": "dispute",
        "amount": charge["amount"],
        "balance_transactions": [],
        "charge": charge["id"],
        "created": at,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {},
        "evidence_details": {
            "due_by": at + _EVIDENCE_SECONDS,
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": inquiry,
        "livemode": False,
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {"card": {**case, "network": card["brand"]}, "type": "card"},
        "reason": reason,
        "status": "warning_needs_response" if inquiry else "needs_response",
    }


def new_movement(dispute: JsonObject, *, amount: int, at: int) -> JsonObject:
    """The money of a dispute on its way: out below zero, back above."""
    reversed_too = amount > 0
    return {
        "id": new_id("balance_transaction"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": at,
        "balance_type": "payments",
        "created": at,
        "currency": dispute["currency"],
        "description": f"Chargeback {'reversal' if reversed_too else 'withdrawal'} for {dispute['charge']}",
        "exchange_rate": None,
        "fee": 0,
        "fee_details": [],
        "net": amount,
        "reporting_category": "dispute_reversal" if reversed_too else "dispute",
        "source": dispute["id"],
        "status": "available",
        "type": "adjustment",
    }


def new_refund(charge: JsonObject, *, amount: int, status: str, at: int) -> JsonObject:
    """Money that goes back to a card."""
    nothing = "balance_transaction reason receipt_number source_transfer_reversal transfer_reversal"
    return {
        "id": new_id("refund"),
        "object": "refund",
        **dict.fromkeys(nothing.split()),
        "amount": amount,
        "charge": charge["id"],
        "created": at,
        "currency": charge["currency"],
        "customer": charge["customer"],
        "destination_details": {"card": {"type": "refund"}, "type": "card"},
        "metadata": {},
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "status": status,
    }


def new_credit_note(invoice: JsonObject, lines: list[JsonObject], *, at: int) -> JsonObject:
    """A credit note over lines, which all money on it follows."""
    identifier, total = new_id("credit_note"), sum(line["amount"] for line in lines)
    open_part = min(total, invoice["amount_remaining"])
    nothing = "customer_balance_transaction memo out_of_band_amount reason shipping_cost total_taxes voided_at"
    same = ("amount", "subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax")
    return {
        "id": identifier,
        "object": "credit_note",
        **dict.fromkeys(nothing.split()),
        **dict.fromkeys(same, total),
        "amount_shipping": 0,
        "created": at,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": at,
        "invoice": invoice["id"],
        "lines": envelope(lines, url=f"/v1/credit_notes/{identifier}/lines"),
        "livemode": False,
        "metadata": {},
        "number": f"{invoice['number']}-CN-01",
        "pdf": f"https://invoice.invalid/{identifier}/pdf",
        "post_payment_amount": total - open_part,
        "pre_payment_amount": open_part,
        "pretax_credit_amounts": [],
        "refunds": [],
        "status": "issued",
        "type": "pre_payment" if open_part else "post_payment",
    }


def new_credit_line(*, amount: int, kind: str, line: JsonObject | None, description: str | None) -> JsonObject:
    """A line of a credit note: of an invoice's line, or of its own."""
    return {
        "id": new_id("credit_note_line_item"),
        "object": "credit_note_line_item",
        "amount": amount,
        "description": description if line is None else line["description"],
        "discount_amount": 0,
        "discount_amounts": [],
        "livemode": False,
        "metadata": {},
        "pretax_credit_amounts": [],
        "quantity": None,
        "tax_rates": [],
        "taxes": [],
        "type": kind,
        "unit_amount": None,
        "unit_amount_decimal": None,
    } | ({} if line is None else {"invoice_line_item": line["id"]})
