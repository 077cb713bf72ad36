import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from prometheus_client import REGISTRY

from tests.billing.world import EVENT_NAME, KEY, StripeWorld, stripe_world
from tests.factories import DAY, HOUR, make_id, team
from tests.stripe_gateway.canned import answering, error
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.domain.payments import MeterEvent, NewCustomer, StripeCustomerId, StripeInvoiceId
from usage_tasks.stripe_gateway.live import LiveGateway

BEGIN = datetime(2026, 1, 31, 10, tzinfo=UTC)
NEW = NewCustomer(
    attribution_id=team(),
    email="someone@example.com",
    name="Some One",
    currency="usd",
    billing_creator_user_id=str(make_id("creator")),
)


@pytest.fixture(scope="module")
def world() -> Iterator[StripeWorld]:
    """One simulator for all: each test has customers of its own."""
    with stripe_world(BEGIN) as running:
        yield running


def gateway(url: str) -> LiveGateway:
    return LiveGateway(secret_key=KEY, meter_event_name=EVENT_NAME, api_base=url)


def customer(world: StripeWorld, key: str) -> StripeCustomerId:
    return world.gateway().create_customer(NEW, idempotency_key=key)


def event(customer_id: str, identifier: str = "report-1", **fields: Any) -> MeterEvent:
    made = MeterEvent(identifier=identifier, customer_id=StripeCustomerId(customer_id), quantity=5, as_of=BEGIN)
    return replace(made, **fields)


def calls(operation: str, outcome: str) -> float:
    labels = {"operation": operation, "outcome": outcome}
    return REGISTRY.get_sample_value("usage_stripe_call_duration_seconds_count", labels) or 0


def test_a_customer_says_whose_it_is(world: StripeWorld) -> None:
    made = world.v1.customers.retrieve(customer(world, "says-whose"))
    assert (made.email, made.name) == (NEW.email, NEW.name)
    assert made.metadata.to_dict() == {
        "attributionId": NEW.attribution_id,
        "preferredCurrency": "usd",
        "billingCreatorUserId": NEW.billing_creator_user_id,
    }


def test_the_same_key_answers_with_the_same_customer(world: StripeWorld) -> None:
    assert customer(world, "same") == customer(world, "same") != customer(world, "other")


def test_the_same_key_with_another_customer_is_refused(world: StripeWorld) -> None:
    customer(world, "reused")
    with pytest.raises(PermanentError, match="IdempotencyError"):
        world.gateway().create_customer(replace(NEW, email="other@example.com"), idempotency_key="reused")


def test_a_subscription_has_its_period_and_the_same_key_answers_with_the_same(world: StripeWorld) -> None:
    owner = customer(world, "subscribes")
    price = world.price_by_currency["usd"]
    made, again = (
        world.gateway().create_subscription(owner, price_id=price, idempotency_key="subscription") for _ in range(2)
    )
    assert made == again
    held = world.v1.subscriptions.retrieve(made.subscription_id)
    item = held.items.data[0]
    assert (held.customer, item.price.id) == (made.customer_id, made.price_id) == (owner, price)
    assert made.current_period_start.timestamp() == item.current_period_start
    assert made.current_period_end.timestamp() == item.current_period_end
    assert made.current_period_start.tzinfo is UTC


def test_a_meter_event_arrives_with_its_quantity_and_its_time(world: StripeWorld) -> None:
    owner = customer(world, "meters")
    world.gateway().send_meter_event(event(owner, "arrives", quantity=10**12, as_of=BEGIN - DAY))
    assert world.meter_events(owner) == [(int((BEGIN - DAY).timestamp()), 10**12)]


def test_an_identifier_that_stripe_knows_counts_as_delivered() -> None:
    with stripe_world(BEGIN) as own:
        owner = customer(own, "twice")
        for hours in (0, 1, 23):
            own.advance(BEGIN + hours * HOUR)
            own.gateway().send_meter_event(event(owner))
        assert own.meter_events(owner) == [(int(BEGIN.timestamp()), 5)]


def test_an_event_repeated_after_stripe_forgot_its_identifier_says_the_same_of_the_same_instant() -> None:
    with stripe_world(BEGIN) as own:
        owner = customer(own, "late")
        for hours in (0, 25):
            own.advance(BEGIN + hours * HOUR)
            own.gateway().send_meter_event(event(owner))
        assert own.meter_events(owner) == 2 * [(int(BEGIN.timestamp()), 5)]


def test_a_429_says_how_long_to_wait(world: StripeWorld) -> None:
    owner = customer(world, "limited")
    world.switch("faults", kind="rate_limited", count=1, seconds=7)
    with pytest.raises(RetryableError) as refused:
        world.gateway().send_meter_event(event(owner, "limited-event"))
    assert refused.value.retry_after == timedelta(seconds=7)
    world.gateway().send_meter_event(event(owner, "limited-event"))


def test_a_meter_and_a_price_are_found_as_stripe_has_them(world: StripeWorld) -> None:
    live = world.gateway()
    meter = live.find_meter(EVENT_NAME)
    assert meter is not None
    assert (meter.meter_id, meter.formula, meter.active) == (world.meter_id, "last", True)
    assert live.find_meter("nobody's") is None
    price = live.find_usage_price(world.price_by_currency["eur"])
    assert price is not None
    assert (price.currency, price.interval, price.usage_type) == ("eur", "month", "metered")
    assert price.meter_id == meter.meter_id
    assert live.find_usage_price("price_none") is None


def test_what_a_meter_counted_is_its_last_value_within_the_time(world: StripeWorld) -> None:
    owner, live = customer(world, "counted"), world.gateway()
    for minutes, quantity in ((1, 5), (3, 10**12)):
        at = BEGIN - DAY + timedelta(minutes=minutes)
        live.send_meter_event(event(owner, f"counted-{minutes}", quantity=quantity, as_of=at))
    for until, expected in ((1, 0), (3, 5), (4, 10**12)):
        end = BEGIN - DAY + timedelta(minutes=until)
        assert live.get_metered_quantity(world.meter_id, owner, start=BEGIN - DAY, end=end) == expected


def test_another_refusal_of_an_event_is_no_delivery(world: StripeWorld) -> None:
    owner = customer(world, "refused")
    with pytest.raises(PermanentError, match="35 calendar days"):
        world.gateway().send_meter_event(event(owner, "too-old", as_of=BEGIN - timedelta(days=36)))
    with pytest.raises(PermanentError, match="No such customer"):
        world.gateway().send_meter_event(event("cus_nobody", "nobody"))


def test_a_duplicate_of_another_identifier_is_no_delivery() -> None:
    told = error("An event already exists with identifier somebody-else.")
    with answering((400, told)) as canned, pytest.raises(PermanentError):
        gateway(canned.url).send_meter_event(event("cus_1"))


def test_an_invoice_is_read_with_its_lines_licensed_and_metered() -> None:
    with stripe_world(BEGIN) as own:
        owner, seat = customer(own, "invoiced"), own.flat_price()
        items = [{"price": own.price_by_currency["usd"]}, {"price": seat, "quantity": 7}]
        subscription = own.v1.subscriptions.create({"customer": owner, "items": items})
        own.gateway().send_meter_event(event(owner))
        end = datetime(2026, 2, 28, 10, tzinfo=UTC)
        own.advance(end)
        draft = own.gateway().get_invoice(StripeInvoiceId(own.invoices(owner)[-1].id))
        own.advance(end + HOUR)
        invoice = own.gateway().get_invoice(draft.invoice_id)
    assert (draft.status, draft.finalized_at, draft.period_end) == ("draft", None, end)
    assert (invoice.status, invoice.finalized_at, invoice.period_end) == ("paid", end + HOUR, end)
    assert (invoice.customer_id, invoice.subscription_id) == (owner, subscription.id)
    assert {line.price_id: line.quantity for line in invoice.lines} == {
        own.price_by_currency["usd"]: Decimal(5),
        seat: Decimal(7),
    }


def test_an_invoice_is_read_with_all_pages_of_its_lines() -> None:
    lines = [
        {
            "id": f"il_{number}",
            "object": "line_item",
            "quantity": number,
            "quantity_decimal": f"{number}.5",
            "pricing": {"type": "price_details", "price_details": {"price": "price_ours", "product": "prod_1"}},
        }
        for number in range(250)
    ]
    lines[7] |= {"pricing": None, "quantity_decimal": None}  # a line by hand, without a price

    def answer(path: str) -> tuple[int, Any]:
        asked = urlsplit(path)
        if not asked.path.endswith("/lines"):
            return 200, canned_invoice()
        after = parse_qs(asked.query).get("starting_after", [""])[0]
        first = int(after.removeprefix("il_")) + 1 if after else 0
        limit = int(parse_qs(asked.query)["limit"][0])
        page = lines[first : first + limit]
        more = first + limit < len(lines)
        return 200, {"object": "list", "data": page, "has_more": more, "url": asked.path}

    with answering(answer) as canned:
        invoice = gateway(canned.url).get_invoice(StripeInvoiceId("in_1"))
    assert len(canned.asked) == 4
    assert [line.quantity for line in invoice.lines] == [
        Decimal(0) if number == 7 else Decimal(f"{number}.5") for number in range(250)
    ]
    assert {line.price_id for line in invoice.lines} == {"price_ours", None}
    assert invoice.subscription_id is None


def canned_invoice() -> dict[str, Any]:
    return {
        "id": "in_1",
        "object": "invoice",
        "customer": {"id": "cus_1", "object": "customer"},
        "status": "open",
        "period_end": 1,
        "parent": None,
        "status_transitions": {"finalized_at": 2},
    }


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, error("slow down", kind="invalid_request_error", code="rate_limit")),
        (409, error("in progress", kind="idempotency_error", code="idempotency_key_in_use")),
        (400, error("locked", code="lock_timeout")),
        (500, error("oops", kind="api_error")),
        (503, "<html>busy</html>"),
        (200, "<html>a proxy's page</html>"),
        (200, ""),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_busy_stripe_may_be_asked_again(status: int, body: Any) -> None:
    before = calls("meter_events.create", "retryable")
    with answering((status, body)) as canned, pytest.raises(RetryableError):
        gateway(canned.url).send_meter_event(event("cus_1"))
    assert calls("meter_events.create", "retryable") == before + 1
    assert len(canned.asked) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("Invalid integer", code="parameter_invalid_integer")),
        (401, error("Invalid API Key provided")),
        (402, error("declined", kind="card_error", code="card_declined")),
        (403, error("not allowed")),
        (404, error("No such customer", code="resource_missing")),
        (400, error("other parameters", kind="idempotency_error")),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_refusal_is_permanent(status: int, body: Any) -> None:
    before = calls("meter_events.create", "permanent")
    with answering((status, body)) as canned, pytest.raises(PermanentError, match=f"{status}.*request req_canned"):
        gateway(canned.url).send_meter_event(event("cus_1"))
    assert calls("meter_events.create", "permanent") == before + 1


def test_a_call_that_works_is_counted_by_its_operation(world: StripeWorld) -> None:
    before = calls("customers.create", "ok")
    customer(world, "counted")
    assert calls("customers.create", "ok") == before + 1


def test_nobody_listening_may_be_asked_again() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(RetryableError, match="APIConnectionError"):
            gateway(url).send_meter_event(event("cus_1"))


@contextmanager
def connections(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A listener that does something with each connection, HTTP or not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    taken, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(taken,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_is_cut_may_be_asked_again() -> None:
    def cut(taken: socket.socket) -> None:
        taken.recv(10)
        taken.close()

    with connections(cut) as url, pytest.raises(RetryableError):
        gateway(url).send_meter_event(event("cus_1"))


def test_an_answer_that_is_cut_short_may_be_asked_again() -> None:
    def cut(taken: socket.socket) -> None:
        taken.recv(100_000)
        taken.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"id": ')
        taken.close()

    with connections(cut) as url, pytest.raises(RetryableError):
        gateway(url).send_meter_event(event("cus_1"))


def test_a_server_that_hangs_is_given_up_in_time() -> None:
    done = threading.Event()

    def hang(_taken: socket.socket) -> None:
        done.wait(30)

    started = time.monotonic()
    with connections(hang) as url, pytest.raises(RetryableError, match="APIConnectionError"):
        LiveGateway(secret_key=KEY, meter_event_name=EVENT_NAME, api_base=url, read_seconds_max=0.3).send_meter_event(
            event("cus_1")
        )
    done.set()
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("status", [400, 401, 402, 404, 429, 500])
def test_an_errors_message_holds_no_secret_and_nothing_personal(status: int) -> None:
    told = error(f"{KEY} may not: someone@example.com, +49 30 1234", code="no")
    with answering((status, told)) as canned:
        client = gateway(canned.url)
        for call in (
            lambda: client.create_customer(NEW, idempotency_key="k"),
            lambda: client.create_subscription(StripeCustomerId("cus_1"), price_id="price_1", idempotency_key="k"),
            lambda: client.send_meter_event(event("cus_1")),
            lambda: client.get_invoice(StripeInvoiceId("in_1")),
        ):
            with pytest.raises((PermanentError, RetryableError)) as raised:
                call()
            assert KEY not in str(raised.value)
            assert "@" not in str(raised.value)


def test_threads_share_a_gateway(world: StripeWorld) -> None:
    shared, owner = world.gateway(), customer(world, "threads")
    threads = [
        threading.Thread(target=shared.send_meter_event, args=(event(owner, f"thread-{number}"),))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(world.meter_events(owner)) == 8
