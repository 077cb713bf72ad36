"""Invoices: retrieve, list, page through the lines, finalize, void and mark uncollectible."""

from usage_tasks.stripe_simulator.billing import FINALIZE
from usage_tasks.stripe_simulator.errors import ApiError, missing_object
from usage_tasks.stripe_simulator.invoicing import finalize, set_standing
from usage_tasks.stripe_simulator.operation import Call, Operation
from usage_tasks.stripe_simulator.params import EXPAND, PAGE, Spec, boolean, moment, text
from usage_tasks.stripe_simulator.replies import envelope, page, page_limit
from usage_tasks.stripe_simulator.wire import JsonObject
from usage_tasks.stripe_simulator.world import render


def _retrieve(call: Call) -> JsonObject:
    return render(call.world.get("invoice", call.subject))


def _list(call: Call) -> JsonObject:
    status, subscription = call.params.get("status"), call.params.get("subscription")

    def keep(invoice: JsonObject) -> bool:
        owner = invoice["parent"]["subscription_details"]["subscription"]
        return status in {None, invoice["status"]} and subscription in {None, owner}

    customer = call.params.get("customer")
    return page(call.world, "invoice", call.params, url=call.path, keep=keep, customer=customer)


def _list_lines(call: Call) -> JsonObject:
    """Lines in the order of the invoice; a cursor names the line to go on from."""
    lines = call.world.get("invoice", call.subject)["lines"]["data"]
    limit, after, before = page_limit(call.params), call.params.get("starting_after"), call.params.get("ending_before")
    places = {line["id"]: place for place, line in enumerate(lines)}
    for name, cursor in (("starting_after", after), ("ending_before", before)):
        if cursor is not None and cursor not in places:
            raise missing_object("line_item", cursor, param=name, status=400)
    if before is not None:
        earlier = lines[: places[before]]
        return envelope(earlier[-limit:], url=call.path, has_more=len(earlier) > limit)
    later = lines[places[after] + 1 :] if after is not None else lines
    return envelope(later[:limit], url=call.path, has_more=len(later) > limit)


def _finalize(call: Call) -> JsonObject:
    """Finalize a draft before its time, and collect."""
    invoice = call.world.get("invoice", call.subject)
    if invoice["status"] != "draft":
        message = "This invoice is already finalized, you can't re-finalize a non-draft invoice."
        raise ApiError(message, code="invoice_not_editable")
    call.world.unschedule(job=FINALIZE, subject=call.subject)
    finalize(call.world, call.subject, at=call.world.now(invoice["test_clock"]))
    return render(call.world.get("invoice", call.subject))


def _void(call: Call) -> JsonObject:
    return _settle(call, "void", moment_name="voided_at", event="invoice.voided", allowed={"open", "uncollectible"})


def _mark_uncollectible(call: Call) -> JsonObject:
    event = "invoice.marked_uncollectible"
    return _settle(call, "uncollectible", moment_name="marked_uncollectible_at", event=event, allowed={"open"})


def _settle(call: Call, status: str, *, moment_name: str, event: str, allowed: set[str]) -> JsonObject:
    """Close an invoice without payment; its subscription is in good standing again."""
    world, invoice = call.world, call.world.get("invoice", call.subject)
    if invoice["status"] not in allowed:
        message = (
            f"You can only do this with an invoice that is {' or '.join(sorted(allowed))}: it is {invoice['status']}."
        )
        raise ApiError(message, code="invoice_not_editable")
    at = world.now(invoice["test_clock"])
    invoice |= {"status": status, "auto_advance": False}
    if status == "void":
        invoice["amount_remaining"] = 0
        payments = [{**one, "status": "canceled"} for one in invoice["payments"]["data"]]
        invoice["payments"]["data"] = payments
    invoice["status_transitions"][moment_name] = at
    world.store.put(invoice)
    world.emit(event, invoice, at=at)
    set_standing(world, invoice, "active", at=at)
    return render(invoice)


_LIST: Spec = {
    **PAGE,
    "created": moment(),
    "customer": text(),
    "status": text("draft", "open", "paid", "uncollectible", "void"),
    "subscription": text(),
}
_FINALIZE: Spec = {**EXPAND, "auto_advance": boolean()}
_ONE = "/v1/invoices/{id}"

OPERATIONS = (
    Operation(method="GET", path="/v1/invoices", spec=_LIST, handle=_list),
    Operation(method="GET", path=_ONE, spec=EXPAND, handle=_retrieve),
    Operation(method="GET", path=f"{_ONE}/lines", spec=PAGE, handle=_list_lines),
    Operation(method="POST", path=f"{_ONE}/finalize", spec=_FINALIZE, handle=_finalize),
    Operation(method="POST", path=f"{_ONE}/void", spec=EXPAND, handle=_void),
    Operation(method="POST", path=f"{_ONE}/mark_uncollectible", spec=EXPAND, handle=_mark_uncollectible),
)
