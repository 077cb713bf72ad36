import json
import time
from collections import Counter

import pytest
import requests
import stripe

from tests.stripe_simulator.conftest import SECRET, START, Account, Receiver, wait_until

DAY = 86400


def ids(receiver: Receiver) -> list[str]:
    return [json.loads(body)["id"] for body, _signature in receiver.got]


def settled(account: Account) -> None:
    wait_until(lambda: account.deliveries()["pending"] == 0)


def create(account: Account, count: int) -> list[str]:
    """So many facts, held back until all have happened; their events, oldest first."""
    account.switch("webhooks", paused=True)
    for _ in range(count):
        account.v1.customers.create()
    return [event.id for event in reversed(list(account.v1.events.list({"limit": 100}).auto_paging_iter()))]


def test_a_delivery_may_be_repeated_with_the_same_id(watched: Account, receiver: Receiver) -> None:
    events = create(watched, 20)
    watched.switch("webhooks", paused=False, duplicate=0.5, seed=3)
    settled(watched)
    times = Counter(ids(receiver))
    assert set(times) == set(events)
    assert max(times.values()) > 1
    assert min(times.values()) == 1


def test_one_fact_may_become_two_events(watched: Account, receiver: Receiver) -> None:
    watched.switch("webhooks", twin=1)
    customer = watched.v1.customers.create().id
    settled(watched)
    first, second = (json.loads(body) for body, _signature in receiver.got)
    assert first.pop("id") != second.pop("id")
    assert first == second
    assert first["data"]["object"]["id"] == customer
    assert len(watched.v1.events.list().data) == 2


def test_events_come_in_an_order_that_follows_the_seed(watched: Account, receiver: Receiver) -> None:
    events = create(watched, 12)
    orders: list[list[str]] = []
    for seed in (1, 1, 2):
        watched.switch("webhooks", paused=True, seed=seed, window=12)
        if orders:
            for event in events:
                requests.post(f"{watched.url}/_simulator/deliveries/replay", json={"event": event}, timeout=5)
        receiver.got.clear()
        watched.switch("webhooks", paused=False)
        settled(watched)
        orders.append(ids(receiver))
    assert all(sorted(order) == sorted(events) for order in orders)
    assert orders[0] == orders[1] != orders[2]
    assert events not in orders


def test_a_delay_holds_a_delivery_back_for_a_while(watched: Account, receiver: Receiver) -> None:
    events = create(watched, 5)
    started = time.monotonic()
    watched.switch("webhooks", paused=False, delay_seconds=0.5, seed=1)
    settled(watched)
    assert time.monotonic() - started > 0.1
    assert ids(receiver) == events


def test_what_happened_too_long_ago_is_given_up_as_stripe_does_after_three_days(
    watched: Account, receiver: Receiver
) -> None:
    old = create(watched, 2)
    watched.advance(START + 4 * DAY)
    *_, late = create(watched, 1)
    watched.switch("webhooks", paused=False, tried_seconds=3 * DAY)
    settled(watched)
    assert ids(receiver) == [late]
    assert watched.deliveries()["failed"] == len(old)


def test_with_a_window_a_failing_delivery_is_overtaken(watched: Account, receiver: Receiver) -> None:
    events = create(watched, 3)
    receiver.answers = [503]
    watched.switch("webhooks", paused=False, window=3)
    settled(watched)
    assert len(receiver.got) == 4
    assert ids(receiver)[0] == ids(receiver)[-1]
    assert set(ids(receiver)) == set(events)


def test_pauses_between_tries_grow(watched: Account, receiver: Receiver) -> None:
    receiver.answers = [500, 500, 500]
    started = time.monotonic()
    watched.v1.customers.create()
    settled(watched)
    assert time.monotonic() - started >= 0.1 + 0.2 + 0.4
    assert len(set(ids(receiver))) == 1


def test_while_secrets_are_rolled_each_of_them_verifies(watched: Account, receiver: Receiver) -> None:
    other = "whsec_test_rolled"
    watched.switch("webhooks", secrets=[other, SECRET])
    watched.v1.customers.create()
    settled(watched)
    watched.switch("webhooks", secrets=[other])
    watched.v1.customers.create()
    settled(watched)
    (rolling, both), (rolled, one) = receiver.got
    assert (both.count("v1="), one.count("v1=")) == (2, 1)
    for secret in (SECRET, other):
        stripe.Webhook.construct_event(rolling, both, secret)
    stripe.Webhook.construct_event(rolled, one, other)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(rolled, one, SECRET)


@pytest.mark.parametrize("options", [{"window": 0}, {"twin": 2}, {"secrets": "one"}, {"paused": 1}, {"speed": 1}])
def test_a_switch_that_nobody_means_is_refused_by_name(watched: Account, options: dict[str, object]) -> None:
    reply = requests.post(f"{watched.url}/_simulator/webhooks", json=options, timeout=5)
    assert reply.status_code == 400
    assert next(iter(options)) in reply.json()["error"]["message"]


def test_events_are_kept_for_thirty_days_of_the_clock(account: Account) -> None:
    account.v1.customers.create()
    event = account.v1.events.list().data[0]
    account.advance(START + 30 * DAY)
    assert account.v1.events.retrieve(event.id).id == event.id
    account.advance(START + 30 * DAY + 1)
    assert account.v1.events.list().data == []
    with pytest.raises(stripe.InvalidRequestError, match="No such event"):
        account.v1.events.retrieve(event.id)


def test_events_are_paged_both_ways_within_a_time(account: Account) -> None:
    for at in range(START, START + 5):
        account.advance(at)
        account.v1.customers.create()
        account.v1.products.create({"name": "Usage"})
    params = {"created": {"gt": START, "lte": START + 3}, "types": ["customer.created"], "limit": 2}
    listed = list(account.v1.events.list(params).auto_paging_iter())
    assert [event.created - START for event in listed] == [3, 2, 1]
    before = account.v1.events.list({**params, "ending_before": listed[-1].id})
    assert [event.created - START for event in before.auto_paging_iter()] == [2, 3]
    with pytest.raises(stripe.InvalidRequestError, match="No such event"):
        account.v1.events.list({"starting_after": "evt_none"})


def test_events_are_asked_for_by_whether_they_arrived(watched: Account, receiver: Receiver) -> None:
    watched.v1.customers.create()
    settled(watched)
    watched.switch("webhooks", paused=True)
    watched.v1.products.create({"name": "Usage"})
    for arrived, kind in ((True, "customer.created"), (False, "product.created")):
        listed = watched.v1.events.list({"delivery_success": arrived})
        assert [event.type for event in listed.data] == [kind]
    watched.switch("webhooks", paused=False)
    settled(watched)
    assert watched.v1.events.list({"delivery_success": False}).data == []
