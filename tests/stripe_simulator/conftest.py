"""A simulator in this process, the official SDK with a witness on the wire, and a receiver of webhooks."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import stripe

from tests.stripe_simulator.contract import promised
from tests.stripe_simulator.description import check_exchange, check_object
from usage_tasks.stripe_simulator import Settings, serve
from usage_tasks.stripe_simulator.http.server import Server
from usage_tasks.stripe_simulator.operations.routes import find

SECRET = "whsec_test_0123456789"
KEY = "sk_test_simulator"
DECLINED = {"simulate_decline": "true"}


def unix(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


EXERCISED: set[str] = set()
"""The operations with a successful answer in the present test."""
START = unix("2026-01-31T10:00:00")
FIRST_END = unix("2026-02-28T10:00:00")
SECOND_END = unix("2026-03-31T10:00:00")


class Witness(stripe.RequestsClient):
    """The SDK's own HTTP client; each exchange is held against Stripe's description."""

    def request(  # type: ignore[override]  # the SDK's RequestsClient differs from its own base in the same way
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        content, status, received = super().request(method, url, headers, post_data)
        check_exchange(method, url, post_data, status, json.loads(content))
        if status == HTTPStatus.OK:
            operation, _subject = find(method.upper(), urlsplit(url).path)
            EXERCISED.add(f"{operation.method} {operation.path}")
        return content, status, received


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An SDK client, and the usual moves of a test with it."""

    url: str
    client: stripe.StripeClient
    v1: Any

    def switch(self, route: str, **options: Any) -> dict[str, Any]:
        """Change the state of an admin route below /_simulator/: faults, webhooks, meters, search."""
        reply = requests.post(f"{self.url}/_simulator/{route}", json=options, timeout=5)
        assert reply.status_code == 200, reply.text
        changed: dict[str, Any] = reply.json()
        return changed

    def faults(self) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{self.url}/_simulator/faults", timeout=5).json()
        return found

    def advance(self, until: int) -> int:
        reply = requests.post(f"{self.url}/_simulator/clock", json={"advance_to": until}, timeout=30)
        assert reply.status_code == 200, reply.text
        now: int = reply.json()["now"]
        return now

    def deliveries(self) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"{self.url}/_simulator/deliveries", timeout=5).json()
        return found

    def metered_price(self, *, formula: str = "last", unit_amount_decimal: str = "1", **price: Any) -> Any:
        meter = self.v1.billing.meters.create(
            {"display_name": formula, "event_name": formula, "default_aggregation": {"formula": formula}}
        )
        recurring = {"interval": "month", "usage_type": "metered", "meter": meter.id}
        product = {"product_data": {"name": "Usage"}}
        amount = {"unit_amount_decimal": unit_amount_decimal}
        return self.v1.prices.create({"currency": "usd", "recurring": recurring, **product, **amount, **price})

    def flat_price(self, cents: int) -> Any:
        product, recurring = {"name": "Seat"}, {"interval": "month"}
        price = {"currency": "usd", "unit_amount": cents, "product_data": product, "recurring": recurring}
        return self.v1.prices.create(price)

    def subscribe(self, *prices: Any, **customer: Any) -> Any:
        created = self.v1.customers.create({"email": "someone@example.com", **customer})
        return self.v1.subscriptions.create({"customer": created.id, "items": [{"price": one.id} for one in prices]})

    def report(self, customer: str, value: str, *, at: int | None, event_name: str = "last", **more: Any) -> Any:
        payload = {"stripe_customer_id": customer, "value": value}
        moment = {} if at is None else {"timestamp": at}
        return self.v1.billing.meter_events.create({"event_name": event_name, "payload": payload, **moment, **more})

    def acts(self, route: str, **subject: Any) -> dict[str, Any]:
        """Let a bank or a cardholder do something, by an admin route."""
        return self.switch(route, **subject)

    def events(self, *prefixes: str) -> list[dict[str, Any]]:
        """The events of some kinds, oldest first, the object of each held against Stripe's description."""
        listed = reversed(list(self.v1.events.list({"limit": 100}).auto_paging_iter()))
        found = [event.to_dict(for_json=True) for event in listed if event.type.startswith(prefixes)]
        for event in found:
            check_object(event["data"]["object"])
        return found

    def event_types(self) -> list[str]:
        return [event.type for event in reversed(list(self.v1.events.list({"limit": 100}).auto_paging_iter()))]


def connect(url: str, *, read_seconds_max: float = 10) -> Account:
    http_client = Witness(timeout=(10, read_seconds_max))
    client = stripe.StripeClient(KEY, base_addresses={"api": url}, http_client=http_client)
    return Account(url=url, client=client, v1=client.v1)


@pytest.fixture(autouse=True)
def _no_telemetry() -> None:
    stripe.enable_telemetry = False


@pytest.fixture(autouse=True)
def _keeps_the_contract(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that docs/stripe-contract.md names for an operation has exercised it by its end."""
    EXERCISED.clear()
    yield
    missing = promised(request.path.name, request.function.__name__) - EXERCISED
    assert not missing, f"docs/stripe-contract.md names this test for {missing}"


@pytest.fixture
def simulator() -> Iterator[Server]:
    with serve(Settings(frozen_time=START)) as server:
        yield server


@pytest.fixture
def account(simulator: Server) -> Account:
    """An account on a clock that stands still at START until the test advances it."""
    return connect(simulator.url)


@dataclass(slots=True)
class Receiver:
    """A webhook endpoint: the received requests, and its next answers (200 once they are used up)."""

    answers: list[int] = field(default_factory=list)
    pause_seconds: float = 0
    got: list[tuple[bytes, str]] = field(default_factory=list)
    thin: list[tuple[bytes, str]] = field(default_factory=list)
    url: str = ""

    def types(self) -> list[str]:
        return [json.loads(body)["type"] for body, _signature in self.got]


@contextmanager
def listening() -> Iterator[Receiver]:
    receiver = Receiver()

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(receiver.pause_seconds)
            received = receiver.thin if self.path.endswith("/thin") else receiver.got
            received.append((body, self.headers["Stripe-Signature"]))
            self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/webhook"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as endpoint:
        yield endpoint


@pytest.fixture
def watched(receiver: Receiver) -> Iterator[Account]:
    """An account whose events go to the receiver."""
    settings = Settings(
        frozen_time=START, webhook_url=receiver.url, webhook_secret=SECRET, thin_webhook_url=f"{receiver.url}/thin"
    )
    with serve(settings) as server:
        yield connect(server.url)


def wait_until(holds: Callable[[], bool], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.01)
