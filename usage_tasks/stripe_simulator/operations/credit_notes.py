"""Credit notes: an invoice lowered, before it is paid or afterwards; created, retrieved, listed and voided."""

from typing import Final

from usage_tasks.stripe_simulator.bank.refunding import refund
from usage_tasks.stripe_simulator.operations.operation import Call, Operation, pick
from usage_tasks.stripe_simulator.shapes.payment_documents import new_credit_line, new_credit_note
from usage_tasks.stripe_simulator.shapes.replies import equals, page
from usage_tasks.stripe_simulator.state.world import new_id
from usage_tasks.stripe_simulator.time import collecting
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.params import EXPAND, PAGE, Spec, integer, listing, mapping, moment, record, text
from usage_tasks.stripe_simulator.wire.wire import JsonObject

_LINE: Spec = {
    "amount": integer(),
    "description": text(),
    "invoice_line_item": text(),
    "quantity": integer(),
    "type": text("custom_line_item", "invoice_line_item", required=True),
    "unit_amount": integer(),
}
_NEW: Spec = {
    **EXPAND,
    "amount": integer(),
    "credit_amount": integer(),
    "invoice": text(required=True),
    "lines": listing(record(_LINE)),
    "memo": text(),
    "metadata": mapping(),
    "out_of_band_amount": integer(),
    "reason": text("duplicate", "fraudulent", "order_change", "product_unsatisfactory"),
    "refund_amount": integer(),
}
_POST_PAYMENT: Final = ("credit_amount", "out_of_band_amount", "refund_amount")


def _create(call: Call) -> JsonObject:
    world, params = call.world, call.params
    invoice = world.get("invoice", params["invoice"], param="invoice", status=400)
    if invoice["status"] not in {"open", "paid"}:
        raise ApiError(f"Credit notes are for open and paid invoices: it is {invoice['status']}.", param="invoice")
    at = world.now(invoice["test_clock"])
    note = new_credit_note(invoice, _lines(call, invoice), at=at)
    _check_amounts(invoice, note, params)
    note |= pick(params, "memo", "reason", "out_of_band_amount")
    note["metadata"] = params.get("metadata") or {}
    if params.get("refund_amount"):
        note["refunds"] = [_refund(call, invoice, params["refund_amount"], at=at)]
    if params.get("credit_amount"):
        customer = world.get("customer", invoice["customer"])
        world.store.put({**customer, "balance": customer["balance"] - params["credit_amount"]})
        note["customer_balance_transaction"] = new_id("customer_balance_transaction")
    world.store.put(note)
    which = "pre_payment" if note["type"] == "pre_payment" else "post_payment"
    invoice[f"{which}_credit_notes_amount"] += note["amount"]
    world.store.put(invoice)
    world.emit("credit_note.created", note, at=at)
    if note["type"] == "pre_payment":
        collecting.lower(world, invoice, note["amount"], at=at)
    return note


def _lines(call: Call, invoice: JsonObject) -> list[JsonObject]:
    """The lines of a note; an amount alone is a line of its own."""
    params = call.params
    if bool(params.get("lines")) == bool(params.get("amount")):
        raise ApiError("Specify exactly one of amount and lines.", param="amount")
    if params.get("amount"):
        return [new_credit_line(amount=params["amount"], kind="custom_line_item", line=None, description=None)]
    billed = {line["id"]: line for line in invoice["lines"]["data"]}
    return [_line(index, given, billed) for index, given in enumerate(params["lines"])]


def _line(index: int, given: JsonObject, billed: dict[str, JsonObject]) -> JsonObject:
    path = f"lines[{index}]"
    if given["type"] == "custom_line_item":
        if given.get("unit_amount") is None or given.get("quantity") is None:
            raise ApiError("A line of its own needs unit_amount and quantity.", param=path)
        amount = given["unit_amount"] * given["quantity"]
        made = new_credit_line(amount=amount, kind=given["type"], line=None, description=given.get("description"))
        return {**made, "quantity": given["quantity"], "unit_amount": given["unit_amount"]}
    line = billed.get(given.get("invoice_line_item") or "")
    if line is None:
        raise ApiError("No such line on the invoice.", param=f"{path}[invoice_line_item]", code="resource_missing")
    if (given.get("amount") is None) == (given.get("quantity") is None):
        raise ApiError("Specify exactly one of amount and quantity.", param=path)
    if given.get("amount") is not None:
        amount = given["amount"]
    else:
        amount = line["amount"] * given["quantity"] // max(line["quantity"], 1)
    if not 0 < amount <= line["amount"]:
        raise ApiError("A line can't be credited with more than it bills.", param=f"{path}[amount]")
    made = new_credit_line(amount=amount, kind=given["type"], line=line, description=None)
    return {**made, "quantity": given.get("quantity")}


def _check_amounts(invoice: JsonObject, note: JsonObject, params: JsonObject) -> None:
    """Check the amounts of a note: a paid amount must be refunded or credited; an open amount is only reduced."""
    credited = invoice["pre_payment_credit_notes_amount"] + invoice["post_payment_credit_notes_amount"]
    if not 0 < note["amount"] <= invoice["total"] - credited:
        raise ApiError("The credit note is over more than the invoice has left.", param="amount")
    given = sum(params.get(name) or 0 for name in _POST_PAYMENT)
    if given != note["post_payment_amount"]:
        message = f"{' plus '.join(_POST_PAYMENT)} must be {note['post_payment_amount']}, which was paid already."
        raise ApiError(message, param="refund_amount")


def _refund(call: Call, invoice: JsonObject, amount: int, *, at: int) -> JsonObject:
    intent = call.world.get("payment_intent", invoice["payments"]["data"][0]["payment"]["payment_intent"])
    made = refund(call.world, call.world.get("charge", intent["latest_charge"]), amount=amount, at=at)
    return {"amount_refunded": amount, "payment_record_refund": None, "refund": made["id"], "type": "refund"}


def _void(call: Call) -> JsonObject:
    """Take back a note on what is still open; what was paid back can't be."""
    world, note = call.world, call.world.get("credit_note", call.subject)
    invoice = world.get("invoice", note["invoice"])
    if note["status"] == "void" or note["type"] != "pre_payment" or invoice["status"] != "open":
        raise ApiError("Only a credit note on an open invoice can be voided.")
    at = world.now(invoice["test_clock"])
    voided = {**note, "status": "void", "voided_at": at}
    world.store.put(voided)
    invoice["pre_payment_credit_notes_amount"] -= note["amount"]
    invoice["amount_due"] += note["amount"]
    invoice["amount_remaining"] += note["amount"]
    world.store.put(invoice)
    world.emit("credit_note.voided", voided, at=at)
    return voided


def _retrieve(call: Call) -> JsonObject:
    return call.world.get("credit_note", call.subject)


def _list(call: Call) -> JsonObject:
    customer = call.params.get("customer")
    keep = equals(call.params, "invoice")
    return page(call.world, "credit_note", call.params, url=call.path, keep=keep, customer=customer)


_ALL = "/v1/credit_notes"
_LIST: Spec = {**PAGE, "created": moment(), "customer": text(), "invoice": text()}

OPERATIONS = (
    Operation(method="POST", path=_ALL, spec=_NEW, handle=_create),
    Operation(method="GET", path=_ALL, spec=_LIST, handle=_list),
    Operation(method="GET", path=f"{_ALL}/{{id}}", spec=EXPAND, handle=_retrieve),
    Operation(method="POST", path=f"{_ALL}/{{id}}/void", spec=EXPAND, handle=_void),
)
