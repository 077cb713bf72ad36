"""Payment intents: create, retrieve, list, confirm, capture and cancel."""

from usage_tasks.stripe_simulator.bank import payments
from usage_tasks.stripe_simulator.bank.amounts import check_amount
from usage_tasks.stripe_simulator.bank.payments import Method
from usage_tasks.stripe_simulator.operations.operation import Answer, Call, Operation, pick
from usage_tasks.stripe_simulator.shapes.payment_documents import new_intent
from usage_tasks.stripe_simulator.shapes.replies import page
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.params import (
    EXPAND,
    PAGE,
    Spec,
    boolean,
    integer,
    listing,
    mapping,
    moment,
    text,
)
from usage_tasks.stripe_simulator.wire.wire import JsonObject

CURRENCY_LETTERS = 3
_CAPTURE = text("automatic", "automatic_async", "manual")
_USAGE = text("off_session", "on_session")
_NEW: Spec = {
    **EXPAND,
    "allowed_payment_method_types": listing(text("card")),
    "amount": integer(required=True),
    "capture_method": _CAPTURE,
    "confirm": boolean(),
    "currency": text(required=True),
    "customer": text(),
    "description": text(limit=1000),
    "metadata": mapping(),
    "off_session": boolean(),
    "payment_method": text(),
    "setup_future_usage": _USAGE,
}
_CONFIRM: Spec = {
    **EXPAND,
    "capture_method": _CAPTURE,
    "off_session": boolean(),
    "payment_method": text(),
    "return_url": text(),
    "setup_future_usage": _USAGE,
}
_REASONS = ("abandoned", "duplicate", "fraudulent", "requested_by_customer")


def _create(call: Call) -> Answer:
    world, params = call.world, call.params
    name = params.get("customer")
    customer = None if name is None else world.named("customer", name, param="customer")
    at = world.now(customer["test_clock"] if customer else None)
    if params["amount"] <= 0:
        raise ApiError("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    currency = params["currency"].lower()
    if len(currency) != CURRENCY_LETTERS or not currency.isalpha():
        raise ApiError(f"Invalid currency: {currency}.", param="currency")
    check_amount(params["amount"], currency)
    intent = {
        **new_intent(amount=params["amount"], currency=currency, customer=name, at=at),
        **pick(params, "capture_method", "description", "setup_future_usage"),
        "metadata": params.get("metadata") or {},
    }
    if params.get("allowed_payment_method_types"):
        intent["allowed_payment_method_types"] = params["allowed_payment_method_types"]
    method = _method(call, customer=name, at=at)
    if method is not None:
        intent |= {"payment_method": method.body["id"], "status": "requires_confirmation"}
    world.store.put(intent)
    world.emit("payment_intent.created", intent, at=at)
    return _confirmed(call, intent, method, at=at) if params.get("confirm") else intent


def _method(call: Call, *, customer: str | None, at: int) -> Method | None:
    name = call.params.get("payment_method")
    if name is None:
        return None
    method = payments.method_of(call.world, name, at=at)
    if method.body["customer"] not in {None, customer}:
        raise ApiError("The payment method belongs to another customer.", param="payment_method")
    return method


def _confirm(call: Call) -> Answer:
    world = call.world
    intent = world.get("payment_intent", call.subject)
    if intent["status"] not in payments.CONFIRMABLE:
        raise payments.unexpected(intent, "confirm", payments.CONFIRMABLE)
    intent |= pick(call.params, "capture_method", "setup_future_usage")
    at = world.now(payments.clock_of(world, intent))
    method = _method(call, customer=intent["customer"], at=at)
    if method is None and intent["payment_method"] is not None:
        method = payments.stored(world.get("payment_method", intent["payment_method"]))
    return _confirmed(call, intent, method, at=at)


def _confirmed(call: Call, intent: JsonObject, method: Method | None, *, at: int) -> Answer:
    if method is None:
        raise ApiError("A payment method is needed to confirm.", code="parameter_missing", param="payment_method")
    tried = payments.attempt(call.world, intent, method, at=at, off_session=bool(call.params.get("off_session")))
    return payments.refusal(tried) if tried["status"] == "requires_payment_method" else tried


def _capture(call: Call) -> JsonObject:
    world, intent = call.world, call.world.get("payment_intent", call.subject)
    at = world.now(payments.clock_of(world, intent))
    return payments.capture(world, intent, amount=call.params.get("amount_to_capture"), at=at)


def _cancel(call: Call) -> JsonObject:
    world, intent = call.world, call.world.get("payment_intent", call.subject)
    at = world.now(payments.clock_of(world, intent))
    return payments.cancel(world, intent, reason=call.params.get("cancellation_reason"), at=at)


def _retrieve(call: Call) -> JsonObject:
    return call.world.get("payment_intent", call.subject)


def _list(call: Call) -> JsonObject:
    customer = call.params.get("customer")
    return page(call.world, "payment_intent", call.params, url=call.path, keep=lambda _: True, customer=customer)


_ALL = "/v1/payment_intents"
_ONE = f"{_ALL}/{{id}}"

OPERATIONS = (
    Operation(method="POST", path=_ALL, spec=_NEW, handle=_create),
    Operation(method="GET", path=_ALL, spec={**PAGE, "created": moment(), "customer": text()}, handle=_list),
    Operation(method="GET", path=_ONE, spec=EXPAND, handle=_retrieve),
    Operation(method="POST", path=f"{_ONE}/confirm", spec=_CONFIRM, handle=_confirm),
    Operation(method="POST", path=f"{_ONE}/capture", spec={**EXPAND, "amount_to_capture": integer()}, handle=_capture),
    Operation(
        method="POST", path=f"{_ONE}/cancel", spec={**EXPAND, "cancellation_reason": text(*_REASONS)}, handle=_cancel
    ),
)
