from datetime import datetime
from typing import Any

import pytest

from tests.factories import HOUR, SYSTEM, call, team
from tests.metering.test_drift import compare
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from usage_tasks.domain.drift import DriftKind
from usage_tasks.runtime import Runtime
from usage_tasks.services.metering.parked import park_if_unbillable
from usage_tasks.services.metering.send_reports import Sent
from usage_tasks.services.payments.reconcile_invoices import reconcile_invoices
from usage_tasks.tasks.billing import metering

NOON = BEGIN + 2 * HOUR
ONE, OTHER = team("one"), team("other")


def metered_price(bench: Bench, *, meter_id: str | None = None) -> str:
    """Another metered price, not one of ours, on our meter or on another."""
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter_id or bench.world.meter_id}
    price = {"currency": "usd", "unit_amount": 2, "product_data": {"name": "More"}, "recurring": recurring}
    return str(bench.world.v1.prices.create(price).id)


def other_meter(bench: Bench) -> str:
    asked = {"display_name": "Storage", "event_name": "storage", "default_aggregation": {"formula": "sum"}}
    return str(bench.world.v1.billing.meters.create(asked).id)


def subscribe(bench: Bench, customer: str) -> str:
    """Subscribe a customer to something else, by hand."""
    asked = {"customer": customer, "items": [{"price": bench.world.flat_price()}]}
    return str(bench.world.v1.subscriptions.create(asked).id)


def change(bench: Bench, subscription: str, *items: dict[str, Any]) -> list[str]:
    """Change a subscription's items by hand, and apply its event; return the ids of its items."""
    changed = bench.world.v1.subscriptions.update(subscription, {"items": list(items), "proration_behavior": "none"})
    bench.handle_all(NOON)
    return [item.id for item in changed["items"].data]


def pay(bench: Bench) -> tuple[str, str]:
    """Let two accounts pay, the second one for comparison; return the first's customer and subscription."""
    customer = bench.pay(ONE)
    bench.pay(OTHER)
    bench.handle_all(BEGIN)
    (row,) = bench.rows("SELECT stripe_subscription_id AS id FROM stripe_subscription WHERE attribution_id = :a", a=ONE)
    return customer, row.id


def parked(bench: Bench) -> dict[str, str]:
    """The parked accounts and why, as an operator lists them."""
    return {each["attribution_id"]: each["reason"] for each in call(metering.list_parked, actor=SYSTEM)["accounts"]}


def released(account: str) -> dict[str, Any]:
    answer: dict[str, Any] = call(metering.release_parked, attribution_id=account, actor=SYSTEM, at=NOON.isoformat())
    return answer


def use_both(bench: Bench, *, at: datetime = NOON) -> None:
    for account in (ONE, OTHER):
        bench.use(account, 5, until=at)
    bench.world.advance(at)
    bench.sync(at)


@pytest.mark.holds("stripe.one-subscription")
def test_an_account_with_two_subscriptions_is_parked_with_the_reason_and_the_others_go_on(
    bench: Bench, rt: Runtime, broker: str
) -> None:
    customer, ours = pay(bench)
    second = subscribe(bench, customer)
    bench.handle_all(NOON)
    reason = f"2 subscriptions in Stripe, one is allowed: {', '.join(sorted((ours, second)))}"
    assert parked(bench) == {ONE: reason}
    (told,) = bench.messages("server.account_parked")
    assert (told.payload["attribution_id"], told.payload["reason"]) == (ONE, reason)
    (noted,) = bench.rows("SELECT attribution_id FROM audit WHERE action = 'stripe_customer.parked'")
    assert noted.attribution_id == ONE
    use_both(bench)
    assert bench.send() == Sent(accepted=1, retried=0, parked=0)
    assert bench.world.meter_events(customer) == []
    assert [state for _, _, state in bench.reports(OTHER)] == ["accepted"]


@pytest.mark.holds("stripe.one-subscription")
def test_it_is_told_once_and_shown_as_astray(bench: Bench, rt: Runtime, broker: str) -> None:
    customer, _ = pay(bench)
    second = subscribe(bench, customer)
    bench.handle_all(NOON)
    bench.world.v1.subscriptions.update(second, {"description": "seen again"})
    bench.handle_all(NOON)
    assert bench.told(ONE).count("account_parked") == 1
    assert [each.kind for each in compare(bench).drifts] == [DriftKind.PARKED]


@pytest.mark.holds("stripe.release-unbillable")
def test_released_before_it_is_mended_it_is_parked_anew_and_after_that_its_sync_goes_on(
    bench: Bench, rt: Runtime, broker: str
) -> None:
    customer, _ = pay(bench)
    second = subscribe(bench, customer)
    bench.handle_all(NOON)
    answer = released(ONE)
    assert (answer["sent_anew"], answer["parked_anew"]) == (0, parked(bench)[ONE])
    assert bench.told(ONE).count("account_parked") == 2
    bench.world.v1.subscriptions.cancel(second)
    bench.handle_all(NOON)
    assert list(parked(bench)) == [ONE], "mended, and nobody has said so"
    assert released(ONE)["parked_anew"] is None
    assert parked(bench) == {}
    use_both(bench)
    assert bench.send().accepted == 2
    assert [value for _, value in bench.world.meter_events(customer)] == [5]


@pytest.mark.holds("stripe.release-unbillable")
def test_what_waits_to_be_sent_when_it_is_parked_waits_on_and_goes_out_when_it_is_released(
    bench: Bench, rt: Runtime, broker: str
) -> None:
    customer, _ = pay(bench)
    use_both(bench)
    second = subscribe(bench, customer)
    bench.handle_all(NOON)
    assert bench.send().accepted == 1
    assert [state for _, _, state in bench.reports(ONE)] == ["pending"]
    bench.world.v1.subscriptions.cancel(second)
    assert released(ONE)["parked_anew"] is None
    assert bench.send().accepted == 1
    assert [value for _, value in bench.world.meter_events(customer)] == [5]


@pytest.mark.holds("stripe.one-subscription")
@pytest.mark.parametrize("of_ours", [True, False], ids=["of ours", "of another price on our meter"])
def test_a_second_metered_item_parks_and_its_end_is_mending(
    bench: Bench, rt: Runtime, broker: str, *, of_ours: bool
) -> None:
    _, subscription = pay(bench)
    more = metered_price(bench)
    if of_ours:
        bench.world.price_by_currency["other"] = more
    _, added = change(bench, subscription, {"price": more})
    prices = sorted([bench.world.price_by_currency["usd"], more])
    told = f"subscription {subscription} has 2 metered items of ours, one is allowed: {', '.join(prices)}"
    assert parked(bench) == {ONE: told}
    change(bench, subscription, {"id": added, "deleted": True})
    assert released(ONE)["parked_anew"] is None
    use_both(bench)
    assert bench.send().accepted == 2


@pytest.mark.holds("stripe.one-subscription")
def test_an_item_of_another_price_beside_ours_parks_nobody(bench: Bench, rt: Runtime, broker: str) -> None:
    _, subscription = pay(bench)
    change(bench, subscription, {"price": bench.world.flat_price()})
    change(bench, subscription, {"price": metered_price(bench, meter_id=other_meter(bench))})
    assert parked(bench) == {}
    use_both(bench)
    assert bench.send().accepted == 2


@pytest.mark.holds("stripe.one-subscription")
def test_a_subscription_without_an_item_of_ours_parks(bench: Bench, rt: Runtime, broker: str) -> None:
    customer, subscription = pay(bench)
    ours, _ = change(bench, subscription, {"price": bench.world.flat_price()})
    change(bench, subscription, {"id": ours, "deleted": True})
    assert parked(bench) == {ONE: f"subscription {subscription} has 0 metered items of ours, one is allowed"}
    use_both(bench)
    assert bench.send().accepted == 1
    assert bench.world.meter_events(customer) == []
    change(bench, subscription, {"price": bench.world.price_by_currency["usd"]})
    assert released(ONE)["parked_anew"] is None
    bench.sync_and_send(NOON + HOUR)
    assert [value for _, value in bench.world.meter_events(customer)] == [5]


@pytest.mark.holds("stripe.one-subscription")
def test_who_had_a_subscription_before_ours_was_made_is_parked_at_once(bench: Bench, rt: Runtime, broker: str) -> None:
    customer = bench.customer(ONE)
    subscribe(bench, customer)
    bench.subscription(ONE)
    assert list(parked(bench)) == [ONE]
    assert bench.subscription(ONE) == bench.subscription(ONE)
    assert bench.told(ONE).count("account_parked") == 1


@pytest.mark.holds("stripe.one-subscription")
def test_a_subscription_whose_event_never_came_is_found_by_the_daily_look(
    bench: Bench, rt: Runtime, broker: str
) -> None:
    customer, _ = pay(bench)
    subscribe(bench, customer)
    reconcile_invoices(bench.context(NOON))
    assert parked(bench) == {}
    bench.execute("UPDATE stripe_subscription SET checked_at = checked_at - interval '1 day'")
    reconcile_invoices(bench.context(NOON))
    assert list(parked(bench)) == [ONE]


@pytest.mark.holds("stripe.release-unbillable")
def test_a_look_from_before_the_release_changes_nothing(bench: Bench, rt: Runtime, broker: str) -> None:
    customer, _ = pay(bench)
    second = subscribe(bench, customer)
    seen = bench.stripe.get_customer(customer)  # type: ignore[arg-type]  # as it is in the table
    bench.handle_all(NOON)
    bench.world.v1.subscriptions.cancel(second)
    assert released(ONE)["parked_anew"] is None
    with bench.transaction() as connection:
        reason = park_if_unbillable(connection, seen, our_prices=bench.world.our_prices, actor=SYSTEM)
    assert reason is not None
    assert parked(bench) == {}
