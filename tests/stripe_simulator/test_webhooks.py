import json
import time

import requests
import stripe

from tests.stripe_simulator.conftest import FIRST_END, SECRET, Account, Receiver, wait_until
from tests.stripe_simulator.description import check_object


def test_the_signature_of_a_webhook_verifies(watched: Account, receiver: Receiver) -> None:
    customer = watched.v1.customers.create({"email": "a@example.com"})
    wait_until(lambda: len(receiver.got) == 1)
    body, signature = receiver.got[0]
    event = stripe.Webhook.construct_event(body, signature, SECRET)
    assert (event.type, event.api_version) == ("customer.created", "2026-10-28.endive")
    assert event.data.object["id"] == customer.id
    check_object(json.loads(body))


def test_webhooks_come_in_the_order_of_the_events(watched: Account, receiver: Receiver) -> None:
    watched.subscribe(watched.metered_price())
    watched.advance(FIRST_END + 3600)
    wait_until(lambda: watched.deliveries()["pending"] == 0)
    assert receiver.types() == watched.event_types()


def test_a_webhook_is_tried_again_and_later_events_wait_behind_it(watched: Account, receiver: Receiver) -> None:
    receiver.answers = [503, 503]
    watched.v1.customers.create()
    watched.v1.products.create({"name": "Usage"})
    wait_until(lambda: watched.deliveries()["pending"] == 0)
    assert receiver.types() == ["customer.created"] * 3 + ["product.created"]
    assert watched.deliveries() == {"pending": 0, "delivered": 2, "failed": 0, "last_error": "HTTP 503"}


def test_a_slow_receiver_does_not_slow_the_api(watched: Account, receiver: Receiver) -> None:
    receiver.pause_seconds = 1
    watched.v1.customers.create()
    started = time.monotonic()
    for _ in range(20):
        watched.v1.customers.create()
    assert time.monotonic() - started < 0.8


def test_a_delivered_event_can_be_sent_once_more(watched: Account, receiver: Receiver) -> None:
    watched.v1.customers.create()
    wait_until(lambda: watched.deliveries()["delivered"] == 1)
    event = json.loads(receiver.got[0][0])["id"]
    reply = requests.post(f"{watched.url}/_simulator/deliveries/replay", json={"event": event}, timeout=5)
    assert reply.status_code == 200
    wait_until(lambda: len(receiver.got) == 2)
    assert json.loads(receiver.got[1][0])["id"] == event
    wait_until(lambda: watched.v1.events.retrieve(event).pending_webhooks == 0)


def test_replaying_an_unknown_event_is_refused(watched: Account) -> None:
    reply = requests.post(f"{watched.url}/_simulator/deliveries/replay", json={"event": "evt_none"}, timeout=5)
    assert reply.status_code == 404
