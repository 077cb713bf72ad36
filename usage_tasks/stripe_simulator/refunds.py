"""Refunds and disputes: money that goes back, by us or by the cardholder's bank."""

from usage_tasks.stripe_simulator import payments
from usage_tasks.stripe_simulator.cards import by_last4
from usage_tasks.stripe_simulator.errors import ApiError, missing_parameter
from usage_tasks.stripe_simulator.operation import Call, Operation, pick
from usage_tasks.stripe_simulator.params import EXPAND, PAGE, Spec, integer, mapping, moment, text
from usage_tasks.stripe_simulator.payment_documents import new_refund
from usage_tasks.stripe_simulator.replies import equals, page
from usage_tasks.stripe_simulator.wire import JsonObject
from usage_tasks.stripe_simulator.world import World

SETTLE = "refund"
SETTLED_SECONDS = 60
"""How long a bank takes to say what became of a refund that isn't simply paid."""
_NEW: Spec = {
    **EXPAND,
    "amount": integer(),
    "charge": text(),
    "metadata": mapping(),
    "payment_intent": text(),
    "reason": text("duplicate", "fraudulent", "requested_by_customer"),
}


def refund(world: World, charge: JsonObject, *, amount: int | None, at: int, **fields: object) -> JsonObject:
    """Send an amount of a charge back; what its card says of refunds comes true a minute later."""
    left = charge["amount_captured"] - charge["amount_refunded"]
    if charge["refunded"] or left <= 0 or not charge["captured"]:
        raise ApiError(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    given = left if amount is None else amount
    if not 0 < given <= left:
        raise ApiError(f"Refund amount ({given}) is greater than unrefunded amount ({left}).", param="amount")
    fate = by_last4(charge["payment_method_details"]["card"]["last4"]).refund
    made = {**new_refund(charge, amount=given, status="pending" if fate == "succeeded" else "succeeded", at=at)}
    made |= {name: value for name, value in fields.items() if value is not None}
    world.store.put(made)
    _return(world, charge, given)
    world.emit("refund.created", made, at=at)
    world.emit("charge.refunded", world.get("charge", charge["id"]), at=at)
    if fate is not None:
        clock = payments.clock_of(world, charge)
        world.schedule(clock=clock, at=at + SETTLED_SECONDS, job=SETTLE, subject=made["id"])
    return made


def settle(world: World, identifier: str, *, at: int) -> None:
    """The bank's word on a refund: it arrived after all, or it comes back."""
    before = world.get("refund", identifier)
    charge = world.get("charge", before["charge"])
    fate = by_last4(charge["payment_method_details"]["card"]["last4"]).refund
    after = {**before, "status": fate}
    if fate == "failed":
        after["failure_reason"] = "expired_or_canceled_card"
        _return(world, charge, -before["amount"])
    world.store.put(after)
    world.emit("refund.updated", after, at=at, before=before)
    if fate == "failed":
        world.emit("refund.failed", after, at=at)


def _return(world: World, charge: JsonObject, amount: int) -> None:
    refunded = charge["amount_refunded"] + amount
    world.store.put({**charge, "amount_refunded": refunded, "refunded": refunded >= charge["amount_captured"]})


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
