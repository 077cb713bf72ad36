"""Refunds and disputes: money that goes back, by us or by the cardholder's bank."""

from usage_tasks.stripe_simulator.bank import payments
from usage_tasks.stripe_simulator.bank.refunding import refund
from usage_tasks.stripe_simulator.operations.operation import Call, Operation, pick
from usage_tasks.stripe_simulator.shapes.replies import equals, page
from usage_tasks.stripe_simulator.wire.errors import ApiError, missing_parameter
from usage_tasks.stripe_simulator.wire.params import EXPAND, PAGE, Spec, integer, mapping, moment, text
from usage_tasks.stripe_simulator.wire.wire import JsonObject

_NEW: Spec = {
    **EXPAND,
    "amount": integer(),
    "charge": text(),
    "metadata": mapping(),
    "payment_intent": text(),
    "reason": text("duplicate", "fraudulent", "requested_by_customer"),
}


def _create(call: Call) -> JsonObject:
    world, params = call.world, call.params
    identifier = params.get("charge")
    if identifier is None:
        if params.get("payment_intent") is None:
            raise missing_parameter("payment_intent")
        intent = world.get("payment_intent", params["payment_intent"], param="payment_intent", status=400)
        identifier = intent["latest_charge"]
        if identifier is None:
            raise ApiError("This PaymentIntent does not have a successful charge to refund.", param="payment_intent")
    charge = world.get("charge", identifier, param="charge", status=400)
    at = world.now(payments.clock_of(world, charge))
    fields = {"metadata": params.get("metadata") or {}, **pick(params, "reason")}
    return refund(world, charge, amount=params.get("amount"), at=at, **fields)


def _retrieve(call: Call) -> JsonObject:
    return call.world.get("refund", call.subject)


def _list(call: Call) -> JsonObject:
    return page(call.world, "refund", call.params, url=call.path, keep=equals(call.params, "charge", "payment_intent"))


def _retrieve_dispute(call: Call) -> JsonObject:
    return call.world.get("dispute", call.subject)


def _list_disputes(call: Call) -> JsonObject:
    return page(call.world, "dispute", call.params, url=call.path, keep=equals(call.params, "charge", "payment_intent"))


_LIST: Spec = {**PAGE, "charge": text(), "created": moment(), "payment_intent": text()}

OPERATIONS = (
    Operation(method="POST", path="/v1/refunds", spec=_NEW, handle=_create),
    Operation(method="GET", path="/v1/refunds", spec=_LIST, handle=_list),
    Operation(method="GET", path="/v1/refunds/{id}", spec=EXPAND, handle=_retrieve),
    Operation(method="GET", path="/v1/disputes", spec=_LIST, handle=_list_disputes),
    Operation(method="GET", path="/v1/disputes/{id}", spec=EXPAND, handle=_retrieve_dispute),
)
