"""The whole surface through a real worker; then all its traces are searched for forbidden texts."""

import json
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
import stripe
from celery import Celery

from tests.factories import make_id, team
from tests.stripe_world.bench import Bench
from tests.warm.start import launch
from usage_tasks.embedded.processes import child_process
from usage_tasks.runtime import Runtime

KEY = "sk_test_51NobodyMayReadThis0123456789"
WEBHOOK_SECRET = "whsec_nobodyMayReadThisEither0123456789"
GOOD, EMPTY = "4242424242424242", "4000000000009995"
EMAIL, CITY = "somebody.private@example.com", "Hintertupfingen"
ACCOUNT, ACTOR = team("secretive"), "service:tests"
PREFIX = {"global_keyprefix": "usage:"}
SERVICES = "billing,stripe"


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """The installation's own key and secret, and the real clock."""
    secrets = {"STRIPE_SECRET_KEY": KEY, "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET}
    return environment | secrets | {"USAGE_TEST_CLOCK": "false", "USAGE_LOG_LEVEL": "DEBUG"}


@contextmanager
def working(environment: dict[str, str], log: Path) -> Iterator[None]:
    """A worker that sends events about its tasks, as for Flower, and logs everything."""
    command = [sys.executable, "-m", "celery", "-A", "usage_tasks", "worker", "-E", f"--queues={SERVICES}"]
    with child_process(
        [*command, "--pool=threads", "--concurrency=2", "--without-mingle", "--without-gossip"],
        name="worker",
        log=log,
        environment=environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ready=lambda: log.exists() and " ready." in log.read_text(),
        ready_seconds_max=30,
        stop_seconds_max=1,
        launcher=launch,
    ):
        yield


@contextmanager
def listening(app: Celery) -> Iterator[list[Any]]:
    """Collect the events that Flower would see."""
    seen: list[Any] = []
    stop = threading.Event()

    def listen() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": seen.append})
            while not stop.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.2, wakeup=False)
                except TimeoutError:
                    continue

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(5)


def card(bench: Bench, number: str) -> str:
    form = {"number": number, "exp_month": 11, "exp_year": 2041, "cvc": "909"}
    details = {"address": {"country": "DE", "city": CITY}, "email": EMAIL}
    return str(bench.world.v1.payment_methods.create({"type": "card", "card": form, "billing_details": details}).id)


class Caller:
    """A caller that dispatches tasks by name, and keeps the errors that it received."""

    def __init__(self, redis_url: str) -> None:
        self.app = Celery("somebody", broker=redis_url, backend=redis_url, set_as_current=False)
        self.app.conf.update(broker_transport_options=PREFIX, result_backend_transport_options=PREFIX)
        self.raised: list[str] = []

    def __call__(self, task: str, **arguments: Any) -> Any:
        # As docs/guides/people.md asks of every sender of an e-mail: else the sender's own header shows it to Flower.
        sent = self.app.send_task(task, kwargs=arguments, queue=task.partition(".")[0], kwargsrepr="(hidden)")
        try:
            return sent.get(timeout=30)
        except Exception as error:  # noqa: BLE001 - whatever it is, its words are what this is about
            self.raised.append("".join(traceback.format_exception(error)))
            return None


def exercise(bench: Bench, call: Caller) -> list[str]:
    """Use the whole surface, including failures; return the texts that must be found nowhere."""
    about = {"attribution_id": ACCOUNT, "actor": ACTOR}
    requests.post(f"{bench.world.url}/_simulator/faults", json={"kind": "server_error", "count": 1}, timeout=5)
    new = {"email": EMAIL, "name": "Some One", "currency": "eur", "billing_creator_user_id": str(make_id("c"))}
    assert call("billing.create_stripe_customer", **about, **new)
    hold = call("billing.create_hold_payment_intent", **about)
    intent, used = hold["payment_intent_id"], {"hold_payment_intent_id": hold["payment_intent_id"]}
    empty, good = card(bench, EMPTY), card(bench, GOOD)
    with pytest.raises(stripe.CardError):
        bench.world.v1.payment_intents.confirm(intent, {"payment_method": empty})
    assert call("billing.create_stripe_subscription", **about, **used, spending_limit=100) is None
    bench.world.v1.payment_intents.confirm(intent, {"payment_method": good})
    assert call("billing.create_stripe_subscription", **about, **used, spending_limit=100)
    told = call("billing.get_stripe_customer", **about)
    assert (told["tax_state"], told["has_payment_method"], told["subscriptions"]) == ("supported", True, 1)
    assert call("billing.update_customer_subscriptions_tax_state", **about)["automatic_tax"] is True
    assert call("billing.get_price_information", **about)["currency"] == "eur"
    assert call("billing.preview_invoice", **about)["total"] == 0
    asked = {"amount": 900, "currency": "eur", "customer": told["stripe_customer_id"], "confirm": True}
    charge = bench.world.v1.payment_intents.create({**asked, "payment_method": good}).latest_charge
    reply = requests.post(f"{bench.world.url}/_simulator/disputes", json={"charge": charge}, timeout=5)
    dispute = {"dispute_id": reply.json()["id"], "actor": ACTOR}
    assert call("billing.on_charge_dispute", **dispute)["status"] == "needs_response"
    assert call("billing.on_charge_dispute", dispute_id="du_nobody", actor=ACTOR) is None
    assert call("billing.release_holds") == {"released": 0, "retried": 0, "failed": 0}
    return [KEY, WEBHOOK_SECRET, GOOD, EMPTY, empty, good, hold["client_secret"], EMAIL, CITY]


def test_no_key_no_card_and_nothing_personal_is_left_anywhere(
    bench: Bench, rt: Runtime, environment: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    call, log = Caller(redis_url), tmp_path / "worker.log"
    with listening(call.app) as seen, working(environment, log):
        secrets = exercise(bench, call)
        events = list(seen)
    places = {
        "log": log.read_text(),
        "redis": "\n".join(left_in(redis_url)),
        "tables": tables(bench),
        "exceptions": "\n".join(call.raised),
        "events": json.dumps(events, default=str),
    }
    signs = {"log": "req_", "redis": "payment_intent_id", "tables": ACCOUNT, "exceptions": "insufficient_funds"}
    for place, sign in {**signs, "events": "task-succeeded"}.items():
        assert sign in places[place], f"nothing was found in {place}"
    assert len(call.raised) == 2, call.raised
    # The hold's caller is answered with the client secret, which the payer's browser needs; nobody else has it.
    (answer,) = [line for line in places["redis"].splitlines() if "client_secret" in line]
    places["redis"] = places["redis"].replace(answer, "")
    for what in secrets:
        for place, text in places.items():
            where = text.find(what)
            assert where < 0, f"{what} is in {place}: {text[max(0, where - 300) : where + 100]}"


def left_in(redis_url: str) -> list[str]:
    """All that Redis holds, a line a key."""
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    readers: dict[str, Any] = {
        "string": client.get,
        "list": lambda name: client.lrange(name, 0, -1),
        "hash": client.hgetall,
        "set": client.smembers,
        "zset": lambda name: client.zrange(name, 0, -1),
    }
    return [f"{key!r} {readers[str(client.type(key))](key)!r}" for key in map(str, client.keys("*"))]


def tables(bench: Bench) -> str:
    """All rows of all tables."""
    names = bench.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    return "\n".join(
        row.line
        for name in names
        for row in bench.rows(f"SELECT t::text AS line FROM {name.table_name} t")  # noqa: S608 - a table's name
    )
