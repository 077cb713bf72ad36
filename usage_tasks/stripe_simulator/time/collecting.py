"""How an invoice gets its money: by the customer's payment method, at once, again when asked, or not at all."""

from usage_tasks.stripe_simulator.bank import payments
from usage_tasks.stripe_simulator.bank.payments import Method
from usage_tasks.stripe_simulator.shapes import cards
from usage_tasks.stripe_simulator.shapes.documents import new_payment
from usage_tasks.stripe_simulator.shapes.payment_documents import new_intent, new_method
from usage_tasks.stripe_simulator.state.world import World
from usage_tasks.stripe_simulator.wire.wire import JsonObject

DECLINE = "simulate_decline"
PAYMENT = "invoice_payment"


def collect(world: World, invoice: JsonObject, *, at: int, method: str | None = None) -> JsonObject:
    """Try to get an open invoice paid; return its payment intent, empty if nothing is due."""
    if invoice["amount_remaining"] <= 0:
        invoice["attempted"] = True
        mark_paid(world, invoice, at=at)
        return {}
    intent = _intent_of(world, invoice, at=at)
    used = payments.method_of(world, method, at=at) if method else _method_of_customer(world, invoice, at=at)
    # Time asks nobody: an invoice's intent waits for its customer where another would fail.
    tried = payments.attempt(world, intent, used, at=at, off_session=False)
    invoice |= {"attempt_count": invoice["attempt_count"] + 1, "attempted": True}
    if tried["status"] == "succeeded":
        mark_paid(world, invoice, at=at)
        return tried
    world.store.put(invoice)
    if tried["status"] == "requires_action":
        world.emit("invoice.payment_action_required", invoice, at=at)
    world.emit("invoice.payment_failed", invoice, at=at)
    failed = "incomplete" if invoice["billing_reason"] == "subscription_create" else "past_due"
    set_standing(world, invoice, failed, at=at)
    return tried


def mark_paid(world: World, invoice: JsonObject, *, at: int, out_of_band: bool = False) -> None:
    """Close an invoice that has its money, from wherever it came."""
    due = invoice["amount_remaining"]
    invoice |= {"status": "paid", "amount_remaining": 0, "auto_advance": False}
    if out_of_band:
        invoice["amount_paid_off_stripe"] = due
        _settle_payments(world, invoice, status="canceled", at=at)
    else:
        invoice["amount_paid"] = due
        _settle_payments(world, invoice, status="paid", at=at)
    invoice["status_transitions"]["paid_at"] = at
    world.store.put(invoice)
    world.emit("invoice.paid", invoice, at=at)
    set_standing(world, invoice, "active", at=at)


def lower(world: World, invoice: JsonObject, amount: int, *, at: int) -> None:
    """Ask for less; an invoice that asks for nothing any more is paid."""
    invoice["amount_due"] -= amount
    invoice["amount_remaining"] -= amount
    world.store.put(invoice)
    if invoice["amount_remaining"] == 0:
        abandon(world, invoice, at=at)
        mark_paid(world, invoice, at=at)


def abandon(world: World, invoice: JsonObject, *, at: int) -> None:
    """Give up the payments that were still open."""
    for payment in invoice["payments"]["data"]:
        intent = world.get("payment_intent", payment["payment"]["payment_intent"])
        if intent["status"] in payments.CANCELLABLE:
            payments.cancel(world, intent, reason="void_invoice", at=at)
    _settle_payments(world, invoice, status="canceled", at=at)


def authenticated(world: World, intent: JsonObject, *, at: int) -> None:
    """Handle a customer's authentication of an invoice's payment: the invoice is paid."""
    row = world.store.row(
        "SELECT id FROM metadata WHERE type = :type AND key = 'payment_intent' AND value = :intent",
        type=PAYMENT,
        intent=intent["id"],
    )
    if row is None or intent["status"] != "succeeded":
        return
    invoice = world.get("invoice", world.get(PAYMENT, row[0])["invoice"])
    if invoice["status"] == "open":
        mark_paid(world, invoice, at=at)


def _intent_of(world: World, invoice: JsonObject, *, at: int) -> JsonObject:
    """The one intent of an invoice, which every attempt goes through."""
    for payment in invoice["payments"]["data"]:
        intent = world.get("payment_intent", payment["payment"]["payment_intent"])
        if intent["status"] in payments.CONFIRMABLE:
            return {**intent, "amount": invoice["amount_remaining"]}
    due, currency = invoice["amount_remaining"], invoice["currency"]
    intent = new_intent(amount=due, currency=currency, customer=invoice["customer"], at=at)
    world.store.put(intent)
    payment = new_payment(invoice, intent["id"], at=at)
    invoice["payments"]["data"] = [payment]
    world.store.put(payment)
    world.store.index_metadata({**payment, "metadata": {"payment_intent": intent["id"]}})
    world.emit("payment_intent.created", intent, at=at)
    return intent


def _method_of_customer(world: World, invoice: JsonObject, *, at: int) -> Method:
    """The customer's default method. Without one: a new card, declined if the customer is deleted or has DECLINE."""
    customer = world.get("customer", invoice["customer"])
    default = invoice["default_payment_method"] or (customer.get("invoice_settings") or {}).get(
        "default_payment_method"
    )
    if default:
        return payments.stored(world.get("payment_method", default))
    declined = customer.get("deleted") or customer["metadata"].get(DECLINE) == "true"
    card = cards.FAILING if declined else cards.ANY
    made = new_method(card, at=at)
    world.store.put(made)
    return Method(body=made, card=card)


def _settle_payments(world: World, invoice: JsonObject, *, status: str, at: int) -> None:
    settled = []
    for payment in invoice["payments"]["data"]:
        moved = payment
        if payment["status"] == "open":
            times = {"canceled_at": at if status == "canceled" else None, "paid_at": at if status == "paid" else None}
            moved = {**payment, "status": status, "status_transitions": times}
            moved["amount_paid"] = payment["amount_requested"] if status == "paid" else None
            world.store.put(moved)
        settled.append(moved)
    invoice["payments"]["data"] = settled


def set_standing(world: World, invoice: JsonObject, status: str, *, at: int) -> None:
    """Let the subscription's status follow its latest invoice."""
    before = world.get("subscription", invoice["parent"]["subscription_details"]["subscription"])
    if before["latest_invoice"] != invoice["id"] or before["ended_at"] is not None or before["status"] == status:
        return
    after = {**before, "status": status}
    world.store.put(after)
    world.emit("customer.subscription.updated", after, at=at, before=before)
