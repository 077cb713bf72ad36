"""Every object that the client reads, with every nullable field null and every optional one absent, one at a time.

The fields that may be missing are generated from Stripe's description. The reading is the same as of the whole object,
or it differs as the table states, or a PermanentError names the field.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.factories import team
from tests.stripe_gateway.canned import answering
from tests.stripe_gateway.described import Json, Lack, example, lacks
from tests.stripe_world.world import EVENT_NAME, KEY
from usage_tasks.domain.disputes import DisputeId
from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.events import EventKind
from usage_tasks.domain.holds import PaymentIntentId
from usage_tasks.domain.payments import (
    NewCustomer,
    StripeCustomerId,
    StripeInvoiceId,
    StripeSubscriptionId,
    billed_credits,
)
from usage_tasks.domain.reversals import CreditNoteId, RefundId
from usage_tasks.stripe_gateway.fields import InvalidStripeObjectError
from usage_tasks.stripe_gateway.live import LiveGateway

AT = datetime(2026, 1, 1, tzinfo=UTC)
ACCOUNT = team("described")
OURS = frozenset({"price_ours"})
NEW = NewCustomer(attribution_id=ACCOUNT, email="a@b", name="A", currency="usd", billing_creator_user_id="creator")


WHEN = {"fetched_at", "listed_at"}
"""The time of an answer: different each time."""


def listed(*data: Json) -> Json:
    return {"object": "list", "data": list(data), "has_more": False, "url": "/v1/things"}


def line(**fields: Any) -> Json:
    """A line of our price, of a subscription."""
    details = {"price": "price_ours", "product": "prod_1"}
    pricing = {"type": "price_details", "price_details": details, "unit_amount_decimal": "1.5"}
    item = {"subscription": "sub_1", "subscription_item": "si_1", "proration": False}
    parent = {"type": "subscription_item_details", "subscription_item_details": item, "invoice_item_details": None}
    given = {"id": "il_1", "quantity": 31, "quantity_decimal": "31", "amount": 47, "pricing": pricing, "parent": parent}
    return example("line_item", **given | fields)


def invoice(**fields: Any) -> Json:
    details = {"subscription": "sub_1", "metadata": {}}
    parent = {"type": "subscription_details", "subscription_details": details, "quote_details": None}
    return example("invoice", **{"id": "in_1", "customer": "cus_1", "parent": parent, "lines": listed(line())} | fields)


def price() -> Json:
    recurring = {"interval": "month", "interval_count": 1, "meter": "mtr_1", "usage_type": "metered"}
    metadata = {"human_readable_description": "a credit"}
    amounts = {"unit_amount": 2, "unit_amount_decimal": "1.5"}
    return example("price", id="price_ours", currency="usd", recurring=recurring, metadata=metadata, **amounts)


def subscription() -> Json:
    item = example("subscription_item", id="si_1", price=price(), current_period_start=1, current_period_end=2)
    return example("subscription", id="sub_1", customer="cus_1", status="active", items=listed(item))


def customer() -> Json:
    metadata = {"attributionId": ACCOUNT, "preferredCurrency": "usd", "billingCreatorUserId": "creator"}
    tax = {"automatic_tax": "supported", "provider": "stripe", "ip_address": None, "location": None}
    whole = {
        "id": "cus_1",
        "currency": "usd",
        "metadata": metadata,
        "tax": tax,
        "subscriptions": listed(subscription()),
    }
    return example("customer", **whole)


def intent() -> Json:
    problem = {"code": "card_declined", "decline_code": "do_not_honor", "type": "card_error"}
    status = "requires_payment_method"
    return example("payment_intent", id="pi_1", customer="cus_1", status=status, last_payment_error=problem)


def credit_note() -> Json:
    lines = listed(example("credit_note_line_item", id="cnli_1", invoice_line_item="il_1", amount=5))
    return example("credit_note", id="cn_1", invoice="in_1", customer="cus_1", lines=lines)


def event() -> Json:
    about = {
        "id": "alrt_1",
        "object": "billing.alert_triggered",
        "customer": "cus_1",
        "alert": {"id": "al_1"},
        "value": 7,
    }
    return example("event", id="evt_1", data={"object": about, "previous_attributes": {"address": None}})


def payment_method() -> Json:
    address = {"city": "Berlin", "country": "DE", "line1": "1", "line2": "2", "postal_code": "3", "state": "BE"}
    details = example("billing_details", address=address)
    return example("payment_method", id="pm_1", customer="cus_1", billing_details=details)


ANY: Any = ...
"""Something: a part of a reading that is not None."""

ITEM = "subscriptions.data.items.data.price"
_HOLD_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "client_secret": {"client_secret": ""},
    "customer": {"customer_id": None},
    "last_payment_error": {"decline_code": None},
    "last_payment_error.decline_code": {"decline_code": "card_declined"},
    "payment_method": {"payment_method_id": None},
}


def _customer_changes(part: str) -> Mapping[str, Mapping[str, Any]]:
    no_meter = {f"{part}subscriptions.0.items.0.meter_id": None}
    metadata = ("attribution_id", "preferred_currency", "billing_creator_user_id")
    return {
        "currency": {f"{part}billed_currency": None},
        "invoice_settings": {f"{part}has_payment_method": False},
        "invoice_settings.default_payment_method": {f"{part}has_payment_method": False},
        "metadata": {f"{part}{name}": None for name in metadata},
        f"{ITEM}.recurring": no_meter,
        f"{ITEM}.recurring.meter": no_meter,
        "tax": {f"{part}tax_state": None},
    }


def _line_changes(place: str) -> Mapping[str, Mapping[str, Any]]:
    """Without its price a line of a subscription may be ours: it is marked, and the invoice of ours is parked."""
    marked = {"lines.0.price_id": None, "lines.0.unreadable": ANY}
    return dict.fromkeys((f"{place}pricing", f"{place}pricing.price_details"), marked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A call of the client, the kind of object that it reads, and the reading without a field.

    `changes`: by missing field, the parts of the reading that differ. `refused`: the required fields.
    """

    kind: str
    body: Callable[[], Json]
    call: Callable[[LiveGateway], Any]
    path: str
    wrap: Callable[[Json], Json] = lambda body: body
    also: Mapping[str, Json] = field(default_factory=dict)
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()


INVOICE = StripeInvoiceId("in_1")
CUSTOMER, SUBSCRIPTION = StripeCustomerId("cus_1"), StripeSubscriptionId("sub_1")

READINGS: dict[str, Reading] = {
    "invoice": Reading(
        kind="invoice",
        body=invoice,
        call=lambda client: client.get_invoice(INVOICE),
        path="/v1/invoices/in_1",
        also={"/v1/invoices/in_1/lines": listed(line())},
        changes={
            "latest_revision": {"replaced_by": None},
            "status_transitions.finalized_at": {"finalized_at": None},
            "status_transitions.marked_uncollectible_at": {"uncollectible_at": None},
            "status_transitions.paid_at": {"paid_at": None},
            "status_transitions.voided_at": {"voided_at": None},
        },
        refused=frozenset({"status"}),
    ),
    "line": Reading(
        kind="line_item",
        body=line,
        call=lambda client: client.get_invoice(INVOICE),
        path="/v1/invoices/in_1/lines",
        wrap=listed,
        also={"/v1/invoices/in_1": invoice()},
        changes=_line_changes(""),
    ),
    "listed invoice": Reading(
        kind="invoice",
        body=invoice,
        call=lambda client: client.list_invoices(created_from=None, created_until=AT, after=None, limit=1),
        path="/v1/invoices",
        wrap=listed,
        changes={
            "status": {"invoices.0.status": ""},  # it is fetched, and refused then
            "status_transitions.finalized_at": {"invoices.0.finalized_at": None},
        },
    ),
    "preview": Reading(
        kind="invoice",
        body=invoice,
        call=lambda client: client.preview_invoice(CUSTOMER, subscription_id=SUBSCRIPTION),
        path="/v1/invoices/create_preview",
        changes=_line_changes("lines.data."),
    ),
    "customer": Reading(
        kind="customer",
        body=customer,
        call=lambda client: client.get_customer(CUSTOMER),
        path="/v1/customers/cus_1",
        changes=_customer_changes(""),
        refused=frozenset({"subscriptions"}),
    ),
    "searched customer": Reading(
        kind="customer",
        body=customer,
        call=lambda client: client.search_customers(ACCOUNT),
        path="/v1/customers/search",
        wrap=lambda body: {**listed(body), "object": "search_result"},
        changes=_customer_changes("0."),
        refused=frozenset({"subscriptions"}),
    ),
    "recent customer": Reading(
        kind="customer",
        body=customer,
        call=lambda client: client.list_recent_customers(ACCOUNT),
        path="/v1/customers",
        wrap=listed,
        changes={"metadata": {"0": None}},  # not found: its account is unknown
    ),
    "new customer": Reading(
        kind="customer",
        body=customer,
        call=lambda client: client.create_customer(NEW, idempotency_key="key"),
        path="/v1/customers",
    ),
    "subscription": Reading(
        kind="subscription",
        body=subscription,
        call=lambda client: client.get_subscription(SUBSCRIPTION),
        path="/v1/subscriptions/sub_1",
        changes={"ended_at": {"ended_at": None}, "latest_invoice": {"latest_invoice_id": None}},
    ),
    "new subscription": Reading(
        kind="subscription",
        body=subscription,
        call=lambda client: client.create_subscription(CUSTOMER, price_id="price_ours", idempotency_key="key"),
        path="/v1/subscriptions",
    ),
    "hold": Reading(
        kind="payment_intent",
        body=intent,
        call=lambda client: client.get_hold(PaymentIntentId("pi_1")),
        path="/v1/payment_intents/pi_1",
        changes=_HOLD_CHANGES,
    ),
    "new hold": Reading(
        kind="payment_intent",
        body=intent,
        call=lambda client: client.create_hold(CUSTOMER, amount=100, currency="usd", idempotency_key="key"),
        path="/v1/payment_intents",
        changes=_HOLD_CHANGES,
    ),
    "price": Reading(
        kind="price",
        body=price,
        call=lambda client: (client.get_price("price_ours"), client.find_usage_price("price_ours")),
        path="/v1/prices/price_ours",
        changes={
            "recurring": {
                "0.meter_id": None,
                "0.interval": None,
                "1.meter_id": None,
                "1.interval": None,
                "1.interval_count": None,
                "1.usage_type": None,
            },
            "recurring.meter": {"0.meter_id": None, "1.meter_id": None},
            "unit_amount_decimal": {"0.unit_amount": Decimal(2)},
        },
    ),
    "dispute": Reading(
        kind="dispute",
        body=lambda: example("dispute", id="du_1", status="lost", payment_intent=intent()),
        call=lambda client: client.get_dispute(DisputeId("du_1")),
        path="/v1/disputes/du_1",
        changes={path: {"customer_id": None} for path in ("payment_intent", "payment_intent.customer")},
    ),
    "refund": Reading(
        kind="refund",
        body=lambda: example("refund", id="re_1", status="failed", customer="cus_1", payment_intent=intent()),
        call=lambda client: client.get_refund(RefundId("re_1")),
        path="/v1/refunds/re_1",
        changes={"payment_intent": {"payment_intent_id": None}, "status": {"status": "pending"}},
    ),
    "invoice payment": Reading(
        kind="invoice_payment",
        body=lambda: example("invoice_payment", id="inpay_1", invoice="in_1"),
        call=lambda client: client.find_invoice_of("pi_1"),
        path="/v1/invoice_payments",
        wrap=listed,
    ),
    "credit note": Reading(
        kind="credit_note",
        body=credit_note,
        call=lambda client: client.get_credit_note(CreditNoteId("cn_1")),
        path="/v1/credit_notes/cn_1",
        changes={"lines.data.invoice_line_item": {"lines.0.invoice_line_id": None}},
    ),
    "listed dispute": Reading(
        kind="dispute",
        body=lambda: example("dispute", id="du_1", status="lost", payment_intent=intent()),
        call=lambda client: client.list_disputes(created_from=AT, after=None, limit=1),
        path="/v1/disputes",
        wrap=listed,
        changes={path: {"objects.0.customer_id": None} for path in ("payment_intent", "payment_intent.customer")},
    ),
    "listed refund": Reading(
        kind="refund",
        body=lambda: example("refund", id="re_1", status="failed", payment_intent=intent()),
        call=lambda client: client.list_refunds(created_from=AT, after=None, limit=1),
        path="/v1/refunds",
        wrap=listed,
        changes={"status": {"objects.0.status": ""}, "customer": {"objects.0.customer_id": "cus_1"}},
    ),
    "listed credit note": Reading(
        kind="credit_note",
        body=credit_note,
        call=lambda client: client.list_credit_notes(created_from=AT, after=None, limit=1),
        path="/v1/credit_notes",
        wrap=listed,
        changes={},
    ),
    "event": Reading(
        kind="event",
        body=event,
        call=lambda client: client.get_event("evt_1"),
        path="/v1/events/evt_1",
        changes={"data.previous_attributes": {"changed": frozenset()}},
    ),
    "listed event": Reading(
        kind="event",
        body=event,
        call=lambda client: client.list_events(EventKind.SNAPSHOT, created_from=AT, cursor=None, limit=1),
        path="/v1/events",
        wrap=listed,
    ),
    "payment method": Reading(
        kind="payment_method",
        body=payment_method,
        call=lambda client: client.adopt_payment_method(CUSTOMER, "pm_1"),
        path="/v1/payment_methods/pm_1",
        also={"/v1/payment_methods/pm_1/attach": payment_method(), "/v1/customers/cus_1": customer()},
    ),
    "meter": Reading(
        kind="billing.meter",
        body=lambda: example("billing.meter", id="mtr_1", event_name=EVENT_NAME),
        call=lambda client: client.find_meter(EVENT_NAME),
        path="/v1/billing/meters",
        wrap=listed,
    ),
    "meter summary": Reading(
        kind="billing.meter_event_summary",
        body=lambda: example("billing.meter_event_summary", aggregated_value=7),
        call=lambda client: client.get_metered_quantity("mtr_1", CUSTOMER, start=AT, end=AT),
        path="/v1/billing/meters/mtr_1/event_summaries",
        wrap=listed,
    ),
}


class Answering:
    """Stripe, with one object that a test changes."""

    def __init__(self, reading: Reading) -> None:
        self.reading, self.body = reading, reading.body()

    def __call__(self, path: str) -> tuple[int, Any]:
        asked = urlsplit(path).path
        if asked == self.reading.path:
            return 200, self.reading.wrap(self.body)
        if asked in self.reading.also:
            return 200, self.reading.also[asked]
        return 404, {"error": {"type": "invalid_request_error", "message": f"nothing at {asked}"}}


@contextmanager
def stripe_with(reading: Reading) -> Iterator[tuple[LiveGateway, Answering]]:
    answer = Answering(reading)
    with answering(answer) as canned:
        yield LiveGateway(secret_key=KEY, meter_event_name=EVENT_NAME, api_base=canned.url), answer


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """A reading as its parts by place, without when it was fetched."""
    if is_dataclass(value) and not isinstance(value, type):
        return flat({name: one for name, one in asdict(value).items() if name not in WHEN}, place)
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {place: value}
    parts = [flat(one, f"{place}.{name}" if place else str(name)) for name, one in value.items()]
    return {name: one for part in parts for name, one in part.items()}


def difference(whole: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    return {name: found.get(name) for name in {*whole, *found} if whole.get(name) != found.get(name)}


def judge(reading: Reading, client: LiveGateway, whole: dict[str, Any], lack: Lack) -> str | None:
    """Return the fault in the reading of an object that lacks a field."""
    try:
        found = difference(whole, flat(reading.call(client)))
    except PermanentError as error:
        named = f"`{lack.path.rpartition('.')[2]}`" in str(error)
        return None if named and lack.path in reading.refused else f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - this is what must not happen
        return f"{type(error).__name__}: {error}"
    wanted = reading.changes.get(lack.path, {})
    same = found.keys() == wanted.keys() and all(
        found[name] == wanted[name] or (wanted[name] is ANY and found[name] is not None) for name in found
    )
    return None if same else f"differs by {found}"


@pytest.mark.parametrize("name", READINGS)
def test_an_object_that_lacks_what_it_may_lack_is_read_right_or_refused_by_name(name: str) -> None:
    reading = READINGS[name]
    with stripe_with(reading) as (client, stripe):
        whole = flat(reading.call(client))
        wrong = {}
        for lack in lacks(reading.kind, reading.body()):
            stripe.body = lack.body
            if (problem := judge(reading, client, whole, lack)) is not None:
                wrong[f"{lack.path} {lack.how}"] = problem
    assert wrong == {}


def test_enough_is_generated() -> None:
    counts = {name: sum(1 for _ in lacks(reading.kind, reading.body())) for name, reading in READINGS.items()}
    assert sum(counts.values()) > 3000
    assert {"pricing null", "pricing absent", "quantity_decimal null", "pricing.price_details absent"} <= {
        f"{lack.path} {lack.how}" for lack in lacks("line_item", line())
    }


def billed(**fields: Any) -> Decimal:
    """The credits that an invoice with one line of these fields bills; a field of ... is absent."""
    body = {name: value for name, value in line(**fields).items() if value is not ANY}
    reading = READINGS["line"]
    with stripe_with(reading) as (client, stripe):
        stripe.body = body
        return billed_credits(client.get_invoice(INVOICE).lines, OURS)


@pytest.mark.parametrize(
    ("exact", "truncated", "expected"),
    [
        ("31", 31, "31"),
        ("31.5", 31, "31.5"),
        ("0.000001", 0, "0.000001"),
        ("-2", -2, "-2"),
        ("0", 0, "0"),
        (None, 31, "31"),
        (ANY, 31, "31"),
        (None, 0, "0"),
        ("31", None, "31"),
        ("31", ANY, "31"),
    ],
)
def test_a_quantity_is_the_exact_one_or_else_the_whole_one(exact: Any, truncated: Any, expected: str) -> None:
    assert billed(quantity_decimal=exact, quantity=truncated) == Decimal(expected)


@pytest.mark.parametrize("exact", [None, ANY])
@pytest.mark.parametrize("truncated", [None, ANY])
def test_a_line_of_ours_without_any_quantity_is_refused_by_name(exact: Any, truncated: Any) -> None:
    with pytest.raises(PermanentError, match=r"line_item il_1: `quantity_decimal` or `quantity`: must be a number"):
        billed(quantity_decimal=exact, quantity=truncated)


PRICED = {"type": "price_details", "price_details": {"price": "price_ours", "product": "prod_1"}}
EXPANDED = {"type": "price_details", "price_details": {"price": price(), "product": "prod_1"}}
UNPRICED = {"type": "price_details", "unit_amount_decimal": "1"}
BY_HAND = {"type": "invoice_item_details", "invoice_item_details": {"invoice_item": "ii_1", "proration": False}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"pricing": PRICED}, 31),
        ({"pricing": EXPANDED}, 31),
        ({"pricing": None, "price": {"id": "price_ours", "object": "price"}}, 31),
        ({"pricing": ANY, "price": "price_ours"}, 31),
        ({"pricing": None, "parent": None}, 0),
        ({"pricing": ANY, "parent": ANY}, 0),
        ({"pricing": UNPRICED, "parent": BY_HAND}, 0),
        ({"pricing": None, "quantity": 0, "quantity_decimal": "0", "amount": 0}, 0),
    ],
    ids=str,
)
def test_a_line_is_ours_by_its_price_wherever_that_stands(fields: dict[str, Any], expected: int) -> None:
    assert billed(**fields) == expected


@pytest.mark.parametrize("pricing", [None, ANY, UNPRICED])
def test_a_line_of_a_subscription_without_its_price_is_never_left_out_in_silence(pricing: Any) -> None:
    with pytest.raises(PermanentError, match=r"line_item il_1: `pricing.price_details.price`: must name the price"):
        billed(pricing=pricing)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"quantity_decimal": "many"}, "not as Stripe describes it"),
        ({"quantity_decimal": ANY, "quantity": "many"}, "`quantity`: must be a number"),
        ({"amount": "much"}, "`amount`: must be a whole number"),
        ({"pricing": "free"}, "`pricing`: must be an object"),
        ({"pricing": {"price_details": {"price": 7}}}, "`price`: must be an id"),
        ({"pricing": {"price_details": {}}}, r"`price`: must be an id, or an object with one \(got nothing\)"),
        ({"pricing": None, "parent": "someone"}, "`parent`: must be an object"),
    ],
)
def test_a_line_that_is_not_as_described_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidStripeObjectError, match=named):
        billed(**fields)


@pytest.mark.parametrize("payer", ["cus_1", {"id": "cus_1", "object": "customer"}, {"id": "cus_1", "deleted": True}])
def test_a_customer_is_an_id_or_an_object_deleted_or_not(payer: Any) -> None:
    with stripe_with(READINGS["invoice"]) as (client, stripe):
        stripe.body = invoice(customer=payer)
        assert client.get_invoice(INVOICE).customer_id == "cus_1"


@pytest.mark.parametrize(
    ("exact", "whole", "expected"), [("1.5", 2, "1.5"), (None, 2, "2"), ("0.25", None, "0.25"), (None, None, None)]
)
def test_a_price_is_the_exact_one_or_else_the_whole_one(exact: Any, whole: Any, expected: str | None) -> None:
    with stripe_with(READINGS["price"]) as (client, stripe):
        stripe.body = price() | {"unit_amount": whole, "unit_amount_decimal": exact}
        assert client.get_price("price_ours").unit_amount == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize("body", [[], 7, None, {"data": None}, {}])
@pytest.mark.parametrize("name", READINGS)
def test_an_answer_that_is_no_such_object_is_never_a_fault_of_ours(name: str, body: Any) -> None:
    reading = READINGS[name]
    with answering((200, body)) as canned:
        client = LiveGateway(secret_key=KEY, meter_event_name=EVENT_NAME, api_base=canned.url)
        with pytest.raises(PermanentError, match="stripe"):
            reading.call(client)
