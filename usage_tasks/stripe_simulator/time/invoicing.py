"""The life of a subscription's invoice: draft, finalized an hour later, then collected."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext

from usage_tasks.stripe_simulator.shapes.documents import new_invoice, new_line
from usage_tasks.stripe_simulator.shapes.replies import tax_of
from usage_tasks.stripe_simulator.state.world import World
from usage_tasks.stripe_simulator.time.collecting import collect
from usage_tasks.stripe_simulator.time.metering import aggregate
from usage_tasks.stripe_simulator.time.tiers import Share, split
from usage_tasks.stripe_simulator.wire.wire import EXACT, JsonObject, plain

DRAFT_GRACE = timedelta(hours=1)


def usage_lines(world: World, subscription: JsonObject, item: JsonObject, *, start: int, end: int) -> list[JsonObject]:
    """Return the lines of a metered item for [start, end) by the meter's present value: one line, or one per tier."""
    line = new_line(subscription, item, start=start, end=end)
    return _measured(world, line, subscription["customer"])


def flat_line(subscription: JsonObject, item: JsonObject, *, start: int, end: int) -> JsonObject:
    """A line for a licensed item, which is billed for the period to come."""
    return _priced(new_line(subscription, item, start=start, end=end), Decimal(item["quantity"]))


def open_draft(
    world: World,
    subscription: JsonObject,
    lines: Sequence[JsonObject],
    *,
    at: int,
    start: int,
    reason: str,
    identifier: str,
) -> JsonObject:
    """Store a draft for the period [start, at); its announcement and its finalization are the caller's."""
    invoice = make_draft(world, subscription, lines, at=at, start=start, reason=reason, identifier=identifier)
    world.store.put(invoice)
    return invoice


def make_draft(
    world: World,
    subscription: JsonObject,
    lines: Sequence[JsonObject],
    *,
    at: int,
    start: int,
    reason: str,
    identifier: str,
) -> JsonObject:
    """A draft that isn't stored."""
    customer = world.get("customer", subscription["customer"])
    invoice = new_invoice(subscription, customer, at=at, start=start, reason=reason, identifier=identifier)
    invoice["lines"]["data"] = [{**line, "invoice": identifier} for line in lines]
    invoice["automatically_finalizes_at"] = at + int(DRAFT_GRACE.total_seconds())
    return invoice | _totals(invoice)


def finalize(world: World, identifier: str, *, at: int) -> None:
    """Measure the metered lines for the last time, fix the totals, and collect."""
    invoice = world.get("invoice", identifier)
    if invoice["status"] != "draft":
        return
    customer_id, lines = invoice["customer"], _one_an_item(invoice["lines"]["data"])
    invoice["lines"]["data"] = [measured for line in lines for measured in _measured(world, line, customer_id)]
    customer = world.get("customer", invoice["customer"])
    invoice |= _totals(invoice)
    invoice |= {"status": "open", "auto_advance": True, "effective_at": at, "automatically_finalizes_at": None}
    invoice["status_transitions"]["finalized_at"] = at
    if not customer.get("deleted"):
        sequence = customer["next_invoice_sequence"]
        invoice["number"] = f"{customer['invoice_prefix']}-{sequence:04d}"
        world.store.put({**customer, "next_invoice_sequence": sequence + 1})
    if invoice["automatic_tax"]["enabled"]:
        _tax(world, invoice, customer, at=at)
    world.store.put(invoice)
    world.emit("invoice.finalized", invoice, at=at)
    collect(world, invoice, at=at)


def _tax(world: World, invoice: JsonObject, customer: JsonObject, *, at: int) -> None:
    """Set the tax fields. No sum changes: they show whether tax could be calculated, and switch it off if not."""
    if not customer.get("deleted") and tax_of(customer)["automatic_tax"] == "supported":
        invoice["automatic_tax"]["status"] = "complete"
        return
    off = {"enabled": False, "liability": None}
    reason = "finalization_requires_location_inputs"
    invoice["automatic_tax"] |= {**off, "status": "requires_location_inputs", "disabled_reason": reason}
    before = world.get("subscription", invoice["parent"]["subscription_details"]["subscription"])
    if before["ended_at"] is None and before["automatic_tax"]["enabled"]:
        after = {**before, "automatic_tax": {**off, "disabled_reason": "requires_location_inputs"}}
        world.store.put(after)
        world.emit("customer.subscription.updated", after, at=at, before=before)


def _one_an_item(lines: Sequence[JsonObject]) -> list[JsonObject]:
    """The first line of each subscription item: it stands for those of the other tiers, too."""
    firsts: dict[str, JsonObject] = {}
    for line in lines:
        firsts.setdefault(line["parent"]["subscription_item_details"]["subscription_item"], line)
    return list(firsts.values())


def _measured(world: World, line: JsonObject, customer: str) -> list[JsonObject]:
    price = world.get("price", line["pricing"]["price_details"]["price"])
    if price["recurring"]["usage_type"] != "metered":
        return [line]
    meter = world.get("billing.meter", price["recurring"]["meter"])
    period = line["period"]
    used = max(aggregate(world.store, meter, customer=customer, start=period["start"], end=period["end"]), Decimal(0))
    if price["billing_scheme"] == "per_unit":
        return [_priced(line, used)]
    return [
        _priced(_tier_line(line, share, number), share.quantity, flat_amount=share.flat_amount)
        for number, share in enumerate(split(used, price["tiers"], mode=price["tiers_mode"]))
    ]


def _tier_line(line: JsonObject, share: Share, number: int) -> JsonObject:
    identifier = line["id"] if number == 0 else f"{line['id']}t{number}"
    pricing = {**line["pricing"], "unit_amount_decimal": plain(share.unit_amount)}
    return {**line, "id": identifier, "pricing": pricing}


def _priced(line: JsonObject, quantity: Decimal, *, flat_amount: Decimal = Decimal(0)) -> JsonObject:
    """Set the quantity and the amount, rounded half up to the cent; `quantity` is the whole part only."""
    with localcontext(EXACT):
        exact = quantity * Decimal(line["pricing"]["unit_amount_decimal"]) + flat_amount
        amount = int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
    counted = {"quantity": int(quantity), "quantity_decimal": plain(quantity)}
    return {**line, **counted, "amount": amount, "subtotal": amount}


def _totals(invoice: JsonObject) -> JsonObject:
    total = sum(line["amount"] for line in invoice["lines"]["data"])
    same = ("amount_due", "amount_remaining", "subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax")
    return dict.fromkeys(same, total)
