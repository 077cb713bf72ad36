import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import structlog
from prometheus_client import REGISTRY

from tests.factories import DAY, HOUR, make_id, team
from tests.stripe_gateway.canned import answering, error
from tests.stripe_world.world import EVENT_NAME, KEY, StripeWorld, stripe_world
from usage_tasks.domain.disputes import DisputeId
from usage_tasks.domain.errors import DeclinedError, NotFoundError, PermanentError, RetryableError
from usage_tasks.domain.events import EventKind
from usage_tasks.domain.holds import PaymentIntentId
from usage_tasks.domain.payments import (
    MeterEvent,
    NewCustomer,
    StripeCustomerId,
    StripeInvoiceId,
    StripeSubscriptionId,
)
from usage_tasks.domain.reversals import CreditNoteId, RefundId
from usage_tasks.stripe_gateway.clocks import read_date
from usage_tasks.stripe_gateway.live import LiveGateway

BEGIN = datetime(2026, 1, 31, 10, tzinfo=UTC)
PERSON, METHOD, NUMBER = "someone@example.com", "pm_1NobodysBusiness", "4242424242424242"
CLIENT_SECRET = "pi_1_secret_nobodysBusiness"
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


@pytest.mark.holds("lesson.duplicate-identifier")
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


@pytest.mark.holds("lesson.duplicate-identifier")
def test_an_identifier_with_another_quantity_counts_as_delivered_where_stripe_knows_it(world: StripeWorld) -> None:
    owner = customer(world, "other quantity")
    world.gateway().send_meter_event(event(owner, "known", quantity=5))
    world.gateway().send_meter_event(event(owner, "known", quantity=6))
    assert [value for _, value in world.meter_events(owner)] == [5]


def test_an_event_whose_key_is_spent_and_that_was_never_counted_is_sent_anew(
    world: StripeWorld,
) -> None:
    owner = customer(world, "never counted")
    world.switch("faults", kind="error_kept", path="/v1/billing/meter_events", count=1)
    with pytest.raises(RetryableError):
        world.gateway().send_meter_event(event(owner, "lost", quantity=5))
    world.gateway().send_meter_event(event(owner, "lost", quantity=6))
    assert [value for _, value in world.meter_events(owner)] == [6]


@pytest.mark.holds("stripe.retry-after")
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


@pytest.mark.holds("lesson.duplicate-identifier")
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


@pytest.mark.holds("stripe.invoice-lines")
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
    lines[7] |= {"pricing": None, "quantity_decimal": None}  # a line by hand, without a price or an exact quantity

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
        Decimal(7) if number == 7 else Decimal(f"{number}.5") for number in range(250)
    ]
    assert {line.price_id for line in invoice.lines} == {"price_ours", None}
    assert invoice.subscription_id is None


def canned_invoice() -> dict[str, Any]:
    return {
        "id": "in_1",
        "object": "invoice",
        "customer": {"id": "cus_1", "object": "customer"},
        "status": "open",
        "created": 1,
        "currency": "usd",
        **dict.fromkeys(("total", "amount_due", "amount_paid", "amount_remaining", "attempt_count"), 0),
        "period_start": 0,
        "period_end": 1,
        "parent": None,
        "latest_revision": None,
        "status_transitions": {"finalized_at": 2, "paid_at": None, "voided_at": None, "marked_uncollectible_at": None},
    }


@pytest.mark.parametrize("missing", ["currency", "status_transitions", "period_start"])
def test_an_invoice_that_is_not_as_described_is_set_aside_by_name(missing: str) -> None:
    odd = {name: value for name, value in canned_invoice().items() if name != missing}
    lines = {"object": "list", "data": [], "has_more": False, "url": "/"}

    def answer(path: str) -> tuple[int, Any]:
        return 200, lines if urlsplit(path).path.endswith("/lines") else odd

    with answering(answer) as canned, pytest.raises(PermanentError, match=missing):
        gateway(canned.url).get_invoice(StripeInvoiceId("in_1"))


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
        (403, error("not allowed")),
        (404, error("No such customer", code="resource_missing")),
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
def test_an_error_holds_no_secret_and_nothing_personal_not_even_in_its_traceback(status: int) -> None:
    unspeakable = (KEY, PERSON, METHOD, NUMBER, CLIENT_SECRET)
    told = error(f"may not: {', '.join(unspeakable)}", code="no")
    told["error"] |= {"payment_method": {"id": METHOD, "number": NUMBER}}
    with answering((status, told)) as canned:
        client = gateway(canned.url)
        for name, call in every_call(client).items():
            with pytest.raises((PermanentError, RetryableError)) as raised:
                call()
            whole = "".join(traceback.format_exception(raised.value))
            assert not [secret for secret in unspeakable if secret in whole], (name, whole)


def every_call(client: LiveGateway) -> dict[str, Callable[[], Any]]:
    """Each call of the gateway, so that no general rule misses one."""
    customer_id, account = StripeCustomerId("cus_1"), NEW.attribution_id
    subscription_id, intent = StripeSubscriptionId("sub_1"), PaymentIntentId("pi_1")
    found: dict[str, Callable[[], Any]] = {
        "create_customer": lambda: client.create_customer(NEW, idempotency_key="k"),
        "create_subscription": lambda: client.create_subscription(customer_id, price_id="price_1", idempotency_key="k"),
        "send_meter_event": lambda: client.send_meter_event(event("cus_1")),
        "get_invoice": lambda: client.get_invoice(StripeInvoiceId("in_1")),
        "list_invoices": lambda: client.list_invoices(created_from=None, created_until=BEGIN, after=None, limit=1),
        "finalize_invoice": lambda: client.finalize_invoice(StripeInvoiceId("in_1"), idempotency_key="k"),
        "get_subscription": lambda: client.get_subscription(subscription_id),
        "cancel_subscription": lambda: client.cancel_subscription(subscription_id),
        "get_customer": lambda: client.get_customer(customer_id),
        "search_customers": lambda: client.search_customers(account),
        "adopt_payment_method": lambda: client.adopt_payment_method(customer_id, METHOD),
        "list_recent_customers": lambda: client.list_recent_customers(account),
        "create_hold": lambda: client.create_hold(customer_id, amount=100, currency="usd", idempotency_key="k"),
        "get_hold": lambda: client.get_hold(intent),
        "release_hold": lambda: client.release_hold(intent),
        "set_automatic_tax": lambda: client.set_automatic_tax(subscription_id, enabled=True),
        "get_price": lambda: client.get_price("price_1"),
        "get_dispute": lambda: client.get_dispute(DisputeId("du_1")),
        "get_refund": lambda: client.get_refund(RefundId("re_1")),
        "find_invoice_of": lambda: client.find_invoice_of("pi_1"),
        "get_credit_note": lambda: client.get_credit_note(CreditNoteId("cn_1")),
        "preview_invoice": lambda: client.preview_invoice(customer_id, subscription_id=subscription_id),
        "get_event": lambda: client.get_event("evt_1"),
        "find_meter": lambda: client.find_meter("usage"),
        "find_usage_price": lambda: client.find_usage_price("price_1"),
        "get_metered_quantity": lambda: client.get_metered_quantity("mtr_1", customer_id, start=BEGIN, end=BEGIN),
        "get_meter_errors": lambda: client.get_meter_errors("evt_1"),
        "list_events": lambda: client.list_events(EventKind.THIN, created_from=BEGIN, cursor=None, limit=1),
        "list_disputes": lambda: client.list_disputes(created_from=BEGIN, after=None, limit=1),
        "list_refunds": lambda: client.list_refunds(created_from=BEGIN, after=None, limit=1),
        "list_credit_notes": lambda: client.list_credit_notes(created_from=BEGIN, after=None, limit=1),
    }
    without_a_call = {"find_clock_difference"}
    assert found.keys() == {name for name in dir(client) if not name.startswith("_")} - without_a_call
    return found


def test_how_long_stripe_asks_to_wait_is_carried() -> None:
    with stripe_world(BEGIN) as own:
        faults = f"{own.url}/_simulator/faults"
        requests.post(faults, json={"kind": "rate_limited", "count": 1, "seconds": 7}, timeout=5)
        with pytest.raises(RetryableError) as busy:
            customer(own, "busy")
        assert busy.value.retry_after == timedelta(seconds=7)
    with answering((500, error("oops", kind="api_error"))) as canned, pytest.raises(RetryableError) as failed:
        gateway(canned.url).get_price("price_1")
    assert failed.value.retry_after is None


def test_a_banks_no_is_an_answer_of_its_own(world: StripeWorld) -> None:
    before = calls("payment_methods.attach", "declined")
    owner = customer(world, "declined")
    number = {"number": "4000000000009995", "exp_month": 1, "exp_year": 2040}
    method = world.v1.payment_methods.create({"type": "card", "card": number}).id
    with pytest.raises(DeclinedError) as declined:
        world.gateway().adopt_payment_method(owner, method)
    assert declined.value.decline_code == "insufficient_funds"
    assert calls("payment_methods.attach", "declined") == before + 1


def test_what_is_not_there_is_told_apart(world: StripeWorld) -> None:
    for call in (
        lambda: world.gateway().get_dispute(DisputeId("du_none")),
        lambda: world.gateway().get_customer(StripeCustomerId("cus_none")),
        lambda: world.gateway().get_event("evt_none"),
    ):
        with pytest.raises(NotFoundError):
            call()


def test_a_deleted_customer_is_only_its_id(world: StripeWorld) -> None:
    gone = customer(world, "gone")
    world.v1.customers.delete(gone)
    found = world.gateway().get_customer(gone)
    assert (found.deleted, found.tax_state, found.subscriptions) == (True, None, ())


def test_each_call_leaves_a_line_with_its_request_ids(world: StripeWorld) -> None:
    with structlog.testing.capture_logs() as lines:
        customer(world, "logged")
        with pytest.raises(NotFoundError):
            world.gateway().get_price("price_none")
        world.gateway().send_meter_event(event(customer(world, "logged"), "metered"))
    told = [(line["operation"], line["outcome"], line["log_level"], len(line["request_ids"])) for line in lines]
    assert told == [
        ("customers.create", "ok", "info", 1),
        ("prices.retrieve", "permanent", "info", 1),
        ("customers.create", "ok", "info", 1),
        ("customers.retrieve", "ok", "info", 1),  # the key is known: its object may be gone
        ("meter_events.create", "ok", "debug", 1),
    ]
    assert all(line["request_ids"][0].startswith("req_") for line in lines)


def test_a_credit_note_with_more_lines_than_it_shows_is_a_persons(world: StripeWorld) -> None:
    note = {
        "id": "cn_1",
        "object": "credit_note",
        "lines": {"object": "list", "data": [], "has_more": True, "url": "/v1/credit_notes/cn_1/lines"},
    }
    with answering((200, note)) as canned, pytest.raises(PermanentError, match="a person must enter"):
        gateway(canned.url).get_credit_note(CreditNoteId("cn_1"))


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


NO_EVENTS = {"object": "list", "data": [], "has_more": False}


def list_events(url: str) -> None:
    gateway(url).list_events(EventKind.SNAPSHOT, created_from=BEGIN, cursor=None, limit=1)


def test_calls_go_through_the_proxy_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with answering((200, NO_EVENTS)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        list_events("http://stripe.invalid")
    assert proxy.asked[0].startswith("http://stripe.invalid/v1/events")


def test_the_key_of_the_settings_is_sent_whatever_a_netrc_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with answering((200, NO_EVENTS)) as canned:
        list_events(canned.url)
    assert canned.authorized == [f"Bearer {KEY}"]


def test_stripes_clock_is_read_from_its_answers(world: StripeWorld) -> None:
    live = world.gateway()
    assert live.find_clock_difference() is None
    world.advance(BEGIN + timedelta(days=3))
    page = live.list_events(EventKind.SNAPSHOT, created_from=BEGIN, cursor=None, limit=1)
    assert page.listed_at == BEGIN + timedelta(days=3)
    ahead = live.find_clock_difference()
    assert ahead is not None
    assert abs(datetime.now(UTC) - ahead - (BEGIN + timedelta(days=3))) < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"date": "Sat, 31 Jan 2026 10:00:00 GMT"}, BEGIN),
        ({"Date": "Sat, 31 Jan 2026 10:00:00 -0000"}, BEGIN),
        ({"DATE": "Sat, 31 Jan 2026 12:00:00 +0200"}, BEGIN),
        ({"Date": "soon"}, None),
        ({"Date": ""}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_date_that_cannot_be_read_is_none(headers: dict[str, str] | None, expected: datetime | None) -> None:
    assert read_date(headers) == expected


@pytest.mark.holds("clocks.stripe-ahead")
def test_what_is_of_the_future_by_our_clock_is_looked_at_again_when_it_has_come(world: StripeWorld) -> None:
    price = world.price_by_currency["usd"]
    behind, now = timedelta(minutes=20), [BEGIN]

    def live(*, bounded: bool) -> LiveGateway:
        clock = lambda: now[0]  # noqa: E731 - a clock that the test sets
        return LiveGateway(
            secret_key=KEY, meter_event_name=EVENT_NAME, api_base=world.url, clock=clock, bounded=bounded
        )

    owner = customer(world, "ahead")
    with world.server.simulator.world() as inside:
        now[0] = datetime.fromtimestamp(inside.now(), UTC) - behind
    with pytest.raises(RetryableError, match=r"subscription sub_.*: is 0:20:00 ahead of the database's clock") as early:
        live(bounded=True).create_subscription(owner, price_id=price, idempotency_key="ahead-subscription")
    assert early.value.retry_after == behind
    made = live(bounded=False).create_subscription(owner, price_id=price, idempotency_key="ahead-subscription")
    with pytest.raises(RetryableError, match="ahead of the database's clock"):
        live(bounded=True).get_subscription(made.subscription_id)
    (first,) = [each for each in world.invoices() if each.customer == owner]
    with pytest.raises(RetryableError, match=r"invoice in_.*: is .* ahead of the database's clock"):
        live(bounded=True).get_invoice(StripeInvoiceId(first.id))
    now[0] += behind
    assert live(bounded=True).create_subscription(owner, price_id=price, idempotency_key="ahead-subscription") == made
    assert live(bounded=True).get_subscription(made.subscription_id).fetched_at == now[0]
    assert live(bounded=True).get_invoice(StripeInvoiceId(first.id)).fetched_at == now[0]
