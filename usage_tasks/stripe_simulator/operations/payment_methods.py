"""Payment methods: create from a test card, retrieve, attach and detach."""

from usage_tasks.stripe_simulator.bank import payments
from usage_tasks.stripe_simulator.operations.operation import Answer, Call, Operation
from usage_tasks.stripe_simulator.shapes import cards
from usage_tasks.stripe_simulator.shapes.payment_documents import new_method
from usage_tasks.stripe_simulator.wire.errors import ApiError, missing_parameter
from usage_tasks.stripe_simulator.wire.params import EXPAND, Spec, integer, mapping, record, text
from usage_tasks.stripe_simulator.wire.wire import JsonObject

_ADDRESS = ("city", "country", "line1", "line2", "postal_code", "state")
_CARD: Spec = {
    "cvc": text(limit=4),
    "exp_month": integer(required=True),
    "exp_year": integer(required=True),
    "number": text(required=True, limit=19),
}
_NEW: Spec = {
    **EXPAND,
    "billing_details": record(
        {
            "address": record({name: text() for name in _ADDRESS}),
            "email": text(limit=512),
            "name": text(limit=256),
            "phone": text(limit=20),
        }
    ),
    "card": record(_CARD),
    "metadata": mapping(),
    "type": text("card", required=True),
}


def _create(call: Call) -> JsonObject:
    given = call.params.get("card")
    if given is None:
        raise missing_parameter("card")
    details = call.params.get("billing_details")
    method = new_method(cards.by_number(given["number"]), at=call.world.now(), details=details)
    method["metadata"] = call.params.get("metadata") or {}
    method["card"] |= {"exp_month": given["exp_month"], "exp_year": given["exp_year"]}
    call.world.store.put(method)
    return method


def _retrieve(call: Call) -> JsonObject:
    return call.world.get("payment_method", call.subject)


def _attach(call: Call) -> Answer:
    """Attach a method to a customer. A bank that declines does so here already."""
    world, name = call.world, call.params.get("customer")
    if name is None:
        raise missing_parameter("customer")
    customer = world.named("customer", name, param="customer")
    at = world.now(customer["test_clock"])
    method = payments.method_of(world, call.subject, at=at)
    if method.body["customer"] not in {None, customer["id"]}:
        raise ApiError("The payment method is attached to another customer.", param="payment_method")
    if not method.card.attaches:
        refused = ApiError("Your card was declined.", status=402, kind="card_error", code=method.card.code)
        refused.body["error"] |= {"decline_code": method.card.decline_code, "payment_method": method.body}
        return refused
    if method.body["customer"] is None:
        payments.attach(world, method.body, customer["id"], at=at)
    return method.body


def _detach(call: Call) -> JsonObject:
    world, method = call.world, call.world.get("payment_method", call.subject)
    if method["customer"] is None:
        raise ApiError("The payment method isn't attached to a customer.", param="payment_method")
    customer = world.get("customer", method["customer"])
    detached = {**method, "customer": None}
    world.store.put(detached)
    settings = customer.get("invoice_settings") or {}
    if settings.get("default_payment_method") == method["id"]:
        world.store.put({**customer, "invoice_settings": {**settings, "default_payment_method": None}})
    world.emit("payment_method.detached", detached, at=world.now(customer.get("test_clock")), before=method)
    return detached


_ONE = "/v1/payment_methods/{id}"

OPERATIONS = (
    Operation(method="POST", path="/v1/payment_methods", spec=_NEW, handle=_create),
    Operation(method="GET", path=_ONE, spec=EXPAND, handle=_retrieve),
    Operation(method="POST", path=f"{_ONE}/attach", spec={**EXPAND, "customer": text()}, handle=_attach),
    Operation(method="POST", path=f"{_ONE}/detach", spec=EXPAND, handle=_detach),
)
