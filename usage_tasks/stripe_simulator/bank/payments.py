"""The life of a payment: charged, held, authenticated, declined, captured, released.

Each move stores the intent and its charge and emits their events. The caller decides whether a decline is an error.
"""

from dataclasses import dataclass

from usage_tasks.stripe_simulator.bank import disputing
from usage_tasks.stripe_simulator.shapes import cards
from usage_tasks.stripe_simulator.shapes.cards import Card
from usage_tasks.stripe_simulator.shapes.payment_documents import new_charge, new_method
from usage_tasks.stripe_simulator.state.world import World
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.wire import JsonObject

CANCELLABLE = ("requires_payment_method", "requires_confirmation", "requires_action", "requires_capture")
CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
EXPIRE = "authorization"
AUTHORIZED_SECONDS = 7 * 86400
"""How long a bank holds an amount for a card: Stripe releases it afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A payment method and the card behind it."""

    body: JsonObject
    card: Card


def method_of(world: World, name: str, *, at: int, param: str = "payment_method") -> Method:
    """The method of an id; the name of a test method is a new one each time."""
    card = cards.BY_NAME.get(name)
    if card is not None:
        made = new_method(card, at=at)
        world.store.put(made)
        return Method(body=made, card=card)
    return stored(world.get("payment_method", name, param=param, status=400))


def stored(body: JsonObject) -> Method:
    return Method(body=body, card=cards.by_last4(body["card"]["last4"]))


def unexpected(intent: JsonObject, move: str, allowed: tuple[str, ...]) -> ApiError:
    """The intent is not where such a move begins."""
    message = (
        f"You cannot {move} this PaymentIntent because it has a status of {intent['status']}. Only a PaymentIntent "
        f"with one of the following statuses may be {move}ed: {', '.join(allowed)}."
    )
    return ApiError(message, code="payment_intent_unexpected_state", param="intent")


def attempt(
    world: World, intent: JsonObject, method: Method, *, at: int, off_session: bool, authenticated: bool = False
) -> JsonObject:
    """Try to take the money: the intent is then paid, held, waiting for its customer, or without a method again."""
    if method.card.authenticates and not authenticated:
        return _ask(world, intent, method, at=at, off_session=off_session)
    charge = new_charge(intent, method.body, method.card, at=at)
    world.store.put(charge)
    if method.card.code is not None:
        return _fail(world, intent, method, charge=charge, code=method.card.code, at=at)
    if intent["setup_future_usage"] and intent["customer"] and method.body["customer"] is None:
        attach(world, method.body, intent["customer"], at=at)
    paid = {
        **intent,
        "last_payment_error": None,
        "latest_charge": charge["id"],
        "next_action": None,
        "payment_method": method.body["id"],
    }
    if intent["capture_method"] == "manual":
        paid |= {"status": "requires_capture", "amount_capturable": intent["amount"]}
        kind = "payment_intent.amount_capturable_updated"
        world.schedule(clock=clock_of(world, intent), at=at + AUTHORIZED_SECONDS, job=EXPIRE, subject=intent["id"])
    else:
        paid |= {"status": "succeeded", "amount_received": intent["amount"]}
        kind = "payment_intent.succeeded"
    world.store.put(paid)
    world.emit("charge.succeeded", charge, at=at)
    world.emit(kind, paid, at=at)
    if method.card.dispute is not None:
        disputing.open_dispute(world, charge, reason=method.card.dispute, inquiry=method.card.inquiry, at=at)
    return paid


def _ask(world: World, intent: JsonObject, method: Method, *, at: int, off_session: bool) -> JsonObject:
    """The bank wants to see the customer: a payment off session fails, another one requires an action."""
    if off_session:
        card = Card(number=method.card.number, code="authentication_required", decline_code="authentication_required")
        charge = new_charge(intent, method.body, card, at=at)
        world.store.put(charge)
        return _fail(world, intent, method, charge=charge, code="authentication_required", at=at)
    action = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
    asked = {**intent, "status": "requires_action", "next_action": action, "payment_method": method.body["id"]}
    asked["last_payment_error"] = None
    world.store.put(asked)
    world.emit("payment_intent.requires_action", asked, at=at)
    return asked


def _fail(
    world: World, intent: JsonObject, method: Method, *, charge: JsonObject | None, code: str, at: int
) -> JsonObject:
    decline_code = None if charge is None else charge["outcome"]["reason"]
    error: JsonObject = {
        "code": code,
        "message": "Your card was declined." if code != "authentication_required" else "Authentication is required.",
        "payment_method": method.body,
        "type": "card_error" if charge is not None else "invalid_request_error",
    }
    failed = {**intent, "status": "requires_payment_method", "next_action": None, "payment_method": None}
    if charge is not None:
        error |= {"charge": charge["id"], "decline_code": decline_code}
        failed["latest_charge"] = charge["id"]
        world.emit("charge.failed", charge, at=at)
    failed["last_payment_error"] = error
    world.store.put(failed)
    world.emit("payment_intent.payment_failed", failed, at=at)
    return failed


def authenticate(world: World, intent: JsonObject, *, succeeds: bool, at: int) -> JsonObject:
    """Simulate the customer's answer to the bank's authentication."""
    if intent["status"] != "requires_action":
        raise unexpected(intent, "authenticate", ("requires_action",))
    method = stored(world.get("payment_method", intent["payment_method"]))
    if succeeds:
        return attempt(world, intent, method, at=at, off_session=False, authenticated=True)
    return _fail(world, intent, method, charge=None, code="payment_intent_authentication_failure", at=at)


def refusal(intent: JsonObject) -> ApiError:
    """Return the error of a failed attempt. Its effects stay."""
    error = intent["last_payment_error"]
    refused = ApiError(error["message"], status=402, kind="card_error", code=error["code"])
    details = {name: value for name, value in error.items() if name not in {"message", "type", "code"}}
    refused.body["error"] |= {**details, "payment_intent": intent}
    return refused


def capture(world: World, intent: JsonObject, *, amount: int | None, at: int) -> JsonObject:
    """Capture the held amount, or a part of it: the rest is released."""
    if intent["status"] != "requires_capture":
        raise unexpected(intent, "captur", ("requires_capture",))
    taken = intent["amount_capturable"] if amount is None else amount
    if not 0 < taken <= intent["amount_capturable"]:
        raise ApiError("The amount to capture is more than what is held.", param="amount_to_capture")
    charge = world.get("charge", intent["latest_charge"])
    charge |= {"captured": True, "amount_captured": taken, "amount_refunded": charge["amount"] - taken}
    world.store.put(charge)
    done = {**intent, "status": "succeeded", "amount_capturable": 0, "amount_received": taken}
    world.store.put(done)
    world.unschedule(job=EXPIRE, subject=intent["id"])
    world.emit("charge.captured", charge, at=at)
    world.emit("payment_intent.succeeded", done, at=at)
    return done


def cancel(world: World, intent: JsonObject, *, reason: str | None, at: int) -> JsonObject:
    """Cancel an intent. A held amount is released."""
    if intent["status"] not in CANCELLABLE:
        raise unexpected(intent, "cancel", CANCELLABLE)
    if intent["status"] == "requires_capture":
        charge = world.get("charge", intent["latest_charge"])
        charge |= {"refunded": True, "amount_refunded": charge["amount"]}
        world.store.put(charge)
        world.emit("charge.refunded", charge, at=at)
    changes = {"status": "canceled", "canceled_at": at, "cancellation_reason": reason, "next_action": None}
    canceled = {**intent, **changes, "amount_capturable": 0}
    world.store.put(canceled)
    world.unschedule(job=EXPIRE, subject=intent["id"])
    world.emit("payment_intent.canceled", canceled, at=at)
    return canceled


def expire(world: World, identifier: str, *, at: int) -> None:
    """Release the amounts that were held for a week."""
    intent = world.get("payment_intent", identifier)
    if intent["status"] == "requires_capture":
        cancel(world, intent, reason="automatic", at=at)


def attach(world: World, method: JsonObject, customer: str, *, at: int) -> None:
    """Make a payment method a customer's own."""
    method["customer"] = customer
    world.store.put(method)
    world.emit("payment_method.attached", method, at=at)


def clock_of(world: World, subject: JsonObject) -> str | None:
    """The test clock that a subject's customer lives on."""
    customer = world.store.find("customer", subject["customer"]) if subject["customer"] else None
    clock: str | None = None if customer is None else customer.get("test_clock")
    return clock
