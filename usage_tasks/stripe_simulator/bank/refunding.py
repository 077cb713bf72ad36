"""Money that a bank sends back: a refund as it begins, and what becomes of it."""

from usage_tasks.stripe_simulator.bank import payments
from usage_tasks.stripe_simulator.shapes.cards import by_last4
from usage_tasks.stripe_simulator.shapes.payment_documents import new_refund
from usage_tasks.stripe_simulator.state.world import World
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.wire import JsonObject

SETTLE = "refund"
SETTLED_SECONDS = 60
"""How long a bank takes to report the result of a refund that is not simply paid."""


def refund(world: World, charge: JsonObject, *, amount: int | None, at: int, **fields: object) -> JsonObject:
    """Refund an amount of a charge. The result that its card defines comes a minute later."""
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
