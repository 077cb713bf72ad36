"""Invoices: retrieve, list, page through the lines, preview, finalize, pay, void, give up; their payments."""

from usage_tasks.stripe_simulator.bank import payments
from usage_tasks.stripe_simulator.operations.operation import Answer, Call, Operation
from usage_tasks.stripe_simulator.shapes.replies import envelope, page, page_limit
from usage_tasks.stripe_simulator.state.world import new_id, render
from usage_tasks.stripe_simulator.time import billing, collecting
from usage_tasks.stripe_simulator.time.billing import FINALIZE
from usage_tasks.stripe_simulator.time.collecting import PAYMENT
from usage_tasks.stripe_simulator.time.invoicing import finalize, flat_line, make_draft, usage_lines
from usage_tasks.stripe_simulator.wire.errors import ApiError, missing_object, missing_parameter
from usage_tasks.stripe_simulator.wire.params import EXPAND, PAGE, Spec, boolean, moment, record, text
from usage_tasks.stripe_simulator.wire.wire import JsonObject


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
        collecting.abandon(world, invoice, at=at)
    invoice["status_transitions"][moment_name] = at
    world.store.put(invoice)
    world.emit(event, invoice, at=at)
    collecting.set_standing(world, invoice, "active", at=at)
    return render(invoice)


def _pay(call: Call) -> Answer:
    """Try again to get an invoice paid; a failure is a card error, and is kept."""
    world, params, invoice = call.world, call.params, call.world.get("invoice", call.subject)
    if invoice["status"] not in {"open", "uncollectible"}:
        message = f"Invoice is already {invoice['status']}" if invoice["status"] == "paid" else "Invoice is not open"
        raise ApiError(message, code="invoice_not_editable")
    at = world.now(invoice["test_clock"])
    if params.get("paid_out_of_band"):
        collecting.abandon(world, invoice, at=at)
        collecting.mark_paid(world, invoice, at=at, out_of_band=True)
        return render(invoice)
    intent = collecting.collect(world, invoice, at=at, method=params.get("payment_method"))
    if intent.get("status") == "requires_payment_method":
        return payments.refusal(intent)
    if intent.get("status") == "requires_action":
        message = "Payment for this invoice requires additional user action before it can be completed successfully."
        code = "invoice_payment_intent_requires_action"
        return ApiError(message, status=402, kind="card_error", code=code)
    return render(world.get("invoice", invoice["id"]))


def _preview(call: Call) -> JsonObject:
    """Return the next invoice of a subscription by the meters' present values. Nothing is stored."""
    world, params = call.world, call.params
    name = params.get("subscription")
    if name is not None:
        subscription = world.get("subscription", name, param="subscription")
    elif params.get("customer") is None:
        raise missing_parameter("customer")
    else:
        customer = world.named("customer", params["customer"], param="customer", status=404)
        found = next(world.subscriptions_of(customer["id"]), None)
        if found is None:
            raise ApiError(
                f"No upcoming invoices for customer: {customer['id']}", status=404, code="invoice_upcoming_none"
            )
        subscription = found
    if subscription["ended_at"] is not None or params.get("customer") not in {None, subscription["customer"]}:
        raise ApiError("The subscription has no upcoming invoice.", status=404, code="invoice_upcoming_none")
    items = subscription["items"]["data"]
    start, end = items[0]["current_period_start"], items[0]["current_period_end"]
    lines = [
        line
        for item in items
        for line in (
            usage_lines(world, subscription, item, start=start, end=end)
            if billing.metered(item)
            else [flat_line(subscription, item, start=end, end=end + end - start)]
        )
    ]
    identifier = f"upcoming_{new_id('invoice')}"
    return render(make_draft(world, subscription, lines, at=end, start=start, reason="upcoming", identifier=identifier))


def _list_payments(call: Call) -> JsonObject:
    params = call.params
    intent = (params.get("payment") or {}).get("payment_intent")

    def keep(payment: JsonObject) -> bool:
        return (
            params.get("invoice") in {None, payment["invoice"]}
            and params.get("status") in {None, payment["status"]}
            and intent in {None, payment["payment"]["payment_intent"]}
        )

    return page(call.world, PAYMENT, params, url=call.path, keep=keep)


def _retrieve_payment(call: Call) -> JsonObject:
    return call.world.get(PAYMENT, call.subject)


_LIST: Spec = {
    **PAGE,
    "created": moment(),
    "customer": text(),
    "status": text("draft", "open", "paid", "uncollectible", "void"),
    "subscription": text(),
}
_FINALIZE: Spec = {**EXPAND, "auto_advance": boolean()}
_PAY: Spec = {**EXPAND, "paid_out_of_band": boolean(), "payment_method": text()}
_PREVIEW: Spec = {**EXPAND, "customer": text(), "subscription": text()}
_PAYMENTS: Spec = {
    **PAGE,
    "created": moment(),
    "invoice": text(),
    "payment": record({"payment_intent": text(), "type": text("payment_intent", required=True)}),
    "status": text("canceled", "open", "paid"),
}
_ONE = "/v1/invoices/{id}"

OPERATIONS = (
    Operation(method="GET", path="/v1/invoices", spec=_LIST, handle=_list),
    Operation(method="GET", path=_ONE, spec=EXPAND, handle=_retrieve),
    Operation(method="GET", path=f"{_ONE}/lines", spec=PAGE, handle=_list_lines),
    Operation(method="POST", path=f"{_ONE}/finalize", spec=_FINALIZE, handle=_finalize),
    Operation(method="POST", path="/v1/invoices/create_preview", spec=_PREVIEW, handle=_preview),
    Operation(method="POST", path=f"{_ONE}/pay", spec=_PAY, handle=_pay),
    Operation(method="GET", path="/v1/invoice_payments", spec=_PAYMENTS, handle=_list_payments),
    Operation(method="GET", path="/v1/invoice_payments/{id}", spec=EXPAND, handle=_retrieve_payment),
    Operation(method="POST", path=f"{_ONE}/void", spec=EXPAND, handle=_void),
    Operation(method="POST", path=f"{_ONE}/mark_uncollectible", spec=EXPAND, handle=_mark_uncollectible),
)
