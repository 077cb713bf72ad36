"""The life of a dispute: opened by the cardholder's bank, its money taken, won, lost or only asked about."""

from usage_tasks.stripe_simulator.shapes.payment_documents import new_dispute, new_movement
from usage_tasks.stripe_simulator.state.world import World
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.wire import JsonObject

_OPEN = ("needs_response", "under_review")
_ASKING = ("warning_needs_response", "warning_under_review")
STEPS = {
    "respond": {"needs_response": "under_review", "warning_needs_response": "warning_under_review"},
    "escalate": dict.fromkeys(_ASKING, "needs_response"),
    "win": dict.fromkeys(_OPEN, "won"),
    "lose": dict.fromkeys(_OPEN, "lost"),
    "drop": dict.fromkeys(_ASKING, "warning_closed"),
}
"""The possible moves of a dispute, by its status: the merchant's actions, and the bank's decisions."""


def open_dispute(world: World, charge: JsonObject, *, reason: str, inquiry: bool, at: int) -> JsonObject:
    """Let the cardholder dispute a charge; unless it is an inquiry the money is gone at once."""
    if charge["disputed"] or not charge["captured"]:
        raise ApiError("Only a captured charge that isn't disputed can be disputed.", param="charge")
    world.store.put({**charge, "disputed": True})
    dispute = new_dispute(charge, reason=reason, inquiry=inquiry, at=at)
    world.store.put(dispute)
    world.emit("charge.dispute.created", dispute, at=at)
    return dispute if inquiry else _move_money(world, dispute, withdrawn=True, at=at)


def step(world: World, dispute: JsonObject, name: str, *, at: int) -> JsonObject:
    """Let the next thing happen to a dispute; raise ApiError if it can't."""
    following = STEPS[name].get(dispute["status"])
    if following is None:
        raise ApiError(f"A dispute with the status {dispute['status']} can't {name}.")
    closes = name in {"win", "lose", "drop"}
    moved = {**dispute, "status": following}
    if name == "respond":
        moved["evidence_details"] = {**dispute["evidence_details"], "has_evidence": True, "submission_count": 1}
    world.store.put(moved)
    world.emit(f"charge.dispute.{'closed' if closes else 'updated'}", moved, at=at, before=None if closes else dispute)
    if name == "escalate":
        return _move_money(world, moved, withdrawn=True, at=at)
    return _move_money(world, moved, withdrawn=False, at=at) if name == "win" else moved


def _move_money(world: World, dispute: JsonObject, *, withdrawn: bool, at: int) -> JsonObject:
    amount = -dispute["amount"] if withdrawn else dispute["amount"]
    movements = [*dispute["balance_transactions"], new_movement(dispute, amount=amount, at=at)]
    moved = {**dispute, "balance_transactions": movements}
    world.store.put(moved)
    world.emit(f"charge.dispute.funds_{'withdrawn' if withdrawn else 'reinstated'}", moved, at=at)
    return moved
