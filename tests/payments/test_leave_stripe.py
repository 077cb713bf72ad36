"""Subscriptions that end: the account leaves stripe once the last invoice is booked, and never loses a credit."""

from datetime import timedelta
from typing import Any

import pytest

from tests.factories import DAY, HOUR, team
from tests.metering.test_drift import compare
from tests.stripe_world.bench import Bench, CrashError, Wrapped, crash
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.services.payments.reconcile_invoices import reconcile_invoices

ACCOUNT = team("one")
ENDED = BEGIN + 10 * DAY
LEFT = ENDED + GRACE


def center(bench: Bench) -> Any:
    return bench.rows("SELECT * FROM cost_center WHERE superseded_at IS NULL")[0]


def cancelled(bench: Bench, **options: Any) -> str:
    """A paying account that has used 12.35 credits, 3 of them unreported, and whose subscription then ends."""
    customer = bench.pay(ACCOUNT)
    bench.use(ACCOUNT, "9.35", until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.use(ACCOUNT, 3, until=ENDED - HOUR)
    bench.world.advance(ENDED)
    bench.world.v1.subscriptions.cancel(bench.world.subscriptions()[0].id, {"invoice_now": True} | options)
    return customer


@pytest.mark.holds("stripe.subscription-deleted")
def test_an_account_leaves_stripe_when_its_last_invoice_is_booked_and_not_before(bench: Bench) -> None:
    customer = cancelled(bench)
    bench.handle_all(ENDED)
    assert (center(bench).billing_strategy, bench.reports()[-1][1]) == ("stripe", 13)
    with pytest.raises(InvalidInputError, match="last invoice booked"):
        bench.subscription(ACCOUNT)
    bench.send()
    bench.world.advance(LEFT)
    assert bench.handle_all(LEFT).parked == 0
    now = center(bench)
    assert (now.billing_strategy, now.spending_limit, now.cycle_started_at) == ("other", 500, LEFT)
    assert bench.world.billed_credits(customer) == [13]
    assert bench.moves(ACCOUNT) == [("invoice", -1300)]
    subscription = bench.rows("SELECT status, stripe_ended_at, ended_at FROM stripe_subscription")[0]
    assert tuple(subscription) == ("canceled", ENDED, ENDED)
    assert bench.verified(LEFT).clean
    assert bench.sync(LEFT + HOUR) == 0


@pytest.mark.holds("stripe.used-after-end")
def test_what_is_used_between_stripes_end_and_ours_is_not_told_for_it_counts_for_nothing(bench: Bench) -> None:
    customer = cancelled(bench)
    bench.handle_all(ENDED)
    bench.send()
    told = bench.world.meter_events(customer)
    bench.use(ACCOUNT, 5, until=ENDED + HOUR)
    assert center(bench).billing_strategy == "stripe"
    assert bench.sync(ENDED + HOUR) == 0
    assert bench.reports()[-1][1:] == (13, "accepted")
    assert bench.world.meter_events(customer) == told
    assert compare(bench, at=ENDED + 3 * HOUR).drifts == []
    bench.world.advance(LEFT)
    bench.handle_all(LEFT)
    assert center(bench).billing_strategy == "other"
    assert bench.world.billed_credits(customer) == [13]
    assert bench.balance(ACCOUNT, LEFT) == 435  # 12.35 and 5, less 13


@pytest.mark.holds("stripe.subscription-deleted")
def test_one_that_ends_without_a_last_invoice_leaves_at_once_and_says_what_nobody_billed(bench: Bench) -> None:
    cancelled(bench, invoice_now=False)
    bench.handle_all(ENDED)
    assert (center(bench).billing_strategy, center(bench).cycle_started_at) == ("other", ENDED)
    ended = bench.rows("SELECT details FROM audit WHERE action = 'stripe_subscription.end'")[0].details
    assert ended["unbilled_cents"] == 1235


@pytest.mark.holds("stripe.subscription-deleted", "lesson.out-of-order")
def test_an_old_deleted_does_not_downgrade_who_has_subscribed_again(bench: Bench) -> None:
    cancelled(bench)
    bench.world.advance(LEFT)
    bench.handle_all(LEFT)
    bench.subscription(ACCOUNT)
    assert center(bench).billing_strategy == "stripe"
    deleted = bench.world.v1.events.list({"type": "customer.subscription.deleted"}).data[0]
    bench.execute("DELETE FROM stripe_event WHERE event_id = :event", event=deleted.id)
    bench.store(deleted)
    bench.handle_all(LEFT)
    assert center(bench).billing_strategy == "stripe"
    outcome = bench.rows("SELECT outcome FROM stripe_event WHERE event_id = :event", event=deleted.id)[0].outcome
    assert outcome == "subscription ended before"


def test_a_subscription_that_stands_elsewhere_is_remembered_and_changes_nothing_else(bench: Bench) -> None:
    bench.world.decline(bench.pay(ACCOUNT))
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(BEGIN + 32 * DAY)
    bench.handle_all(BEGIN + 32 * DAY)
    assert bench.rows("SELECT status, ended_at FROM stripe_subscription") == [("past_due", None)]
    assert center(bench).billing_strategy == "stripe"


@pytest.mark.parametrize(("what", "status"), [("paused", "paused"), ("resumed", "active")])
def test_one_that_is_paused_or_goes_on_is_remembered_and_stays_on_stripe(bench: Bench, what: str, status: str) -> None:
    bench.pay(ACCOUNT)
    (subscription,) = bench.world.subscriptions()
    with bench.world.server.simulator.world() as world:  # a trial that ended without a card; there are no trials here
        stands = {**world.get("subscription", subscription.id), "status": status}
        world.store.put(stands)
        world.emit(f"customer.subscription.{what}", stands, at=world.now())
    bench.handle_all(BEGIN)
    outcomes = bench.rows("SELECT outcome FROM stripe_event WHERE type = :t", t=f"customer.subscription.{what}")
    assert outcomes == [(f"subscription is {status}",)]
    assert bench.rows("SELECT status, ended_at FROM stripe_subscription") == [(status, None)]
    assert center(bench).billing_strategy == "stripe"


@pytest.mark.holds("stripe.customer-deleted")
def test_a_deleted_customer_ends_and_the_account_may_have_another(bench: Bench) -> None:
    gone = bench.pay(ACCOUNT)
    bench.world.v1.customers.delete(gone)
    bench.handle_all(BEGIN)
    assert center(bench).billing_strategy == "other"
    with pytest.raises(InvalidInputError, match="with a customer in Stripe"):
        bench.subscription(ACCOUNT)
    assert bench.pay(ACCOUNT) != gone
    assert bench.pay(ACCOUNT) != gone
    assert (len(bench.world.customers()), center(bench).billing_strategy) == (1, "stripe")


@pytest.mark.holds("clocks.event-claims")
def test_a_deletion_is_of_now_at_the_latest_whatever_its_event_claims(bench: Bench) -> None:
    bench.world.v1.customers.delete(bench.pay(ACCOUNT))
    bench.receive(types="")
    claim = "UPDATE stripe_event SET created_at = :at WHERE type = 'customer.deleted'"
    assert bench.execute(claim, at=BEGIN + 4000 * DAY) == 1
    bench.handle_stored(BEGIN)
    assert bench.rows("SELECT deleted_at FROM stripe_customer") == [(BEGIN,)]


@pytest.mark.holds("lesson.lost-enqueue")
def test_an_end_whose_event_was_lost_is_found_by_the_next_look(bench: Bench) -> None:
    cancelled(bench, invoice_now=False)
    bench.world.new_events()
    assert reconcile_invoices(bench.context(ENDED)).fetched == 0  # looked at within the day
    bench.execute("UPDATE stripe_subscription SET checked_at = checked_at - interval '2 days'")
    reconcile_invoices(bench.context(ENDED))
    assert (center(bench).billing_strategy, center(bench).cycle_started_at) == ("other", ENDED)


def test_a_subscription_whose_answer_was_lost_is_stored_by_its_event_once_nobody_else_will(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    with pytest.raises(CrashError):
        bench.subscription(ACCOUNT, stripe=Wrapped(bench.stripe, after=crash, only="create_subscription"))
    assert bench.handle_all(BEGIN).retried > 0
    assert bench.rows("SELECT 1 FROM stripe_subscription WHERE stripe_subscription_id IS NOT NULL") == []
    bench.execute("UPDATE stripe_subscription SET created_at = created_at - interval '1 hour'")
    bench.handle_all(BEGIN)
    stored = bench.rows("SELECT stripe_subscription_id AS id FROM stripe_subscription")
    assert [row.id for row in stored] == [made.id for made in bench.world.subscriptions()]
    assert (center(bench).billing_strategy, center(bench).cycle_started_at) == ("stripe", BEGIN)
    assert bench.subscription(ACCOUNT) == stored[0].id
    assert bench.rows("SELECT count(*) FROM stripe_event WHERE state <> 'applied'")[0][0] == 0


def test_a_customer_whose_answer_was_lost_is_stored_by_its_event_once_nobody_else_will(bench: Bench) -> None:
    with pytest.raises(CrashError):
        bench.customer(ACCOUNT, stripe=Wrapped(bench.stripe, after=crash, only="create_customer"))
    (made,) = bench.world.customers()
    assert bench.handle_all(BEGIN).retried == 1
    assert bench.rows("SELECT stripe_customer_id FROM stripe_customer") == [(None,)]
    bench.execute("UPDATE stripe_customer SET created_at = created_at - interval '1 hour'")
    bench.handle_all(BEGIN)
    assert bench.rows("SELECT stripe_customer_id FROM stripe_customer") == [(made.id,)]
    assert [row.action for row in bench.rows("SELECT action FROM audit")] == ["stripe_customer.adopt"]
    assert bench.customer(ACCOUNT) == made.id
    assert len(bench.world.customers()) == 1


@pytest.mark.parametrize(
    "metadata",
    [{}, {"attributionId": "team:unknown"}, {"attributionId": ACCOUNT, "preferredCurrency": "eur"}],
    ids=["nobody's", "of nobody we know", "in another currency"],
)
def test_a_customer_that_we_did_not_ask_for_is_left_alone(bench: Bench, metadata: dict[str, str]) -> None:
    with pytest.raises(CrashError):
        bench.customer(ACCOUNT, stripe=Wrapped(bench.stripe, before=crash, only="create_customer"))
    bench.execute("UPDATE stripe_customer SET created_at = created_at - interval '1 hour'")
    bench.world.v1.customers.create({"metadata": metadata})
    bench.handle_all(BEGIN)
    assert bench.rows("SELECT stripe_customer_id FROM stripe_customer") == [(None,)]
    told = bench.rows("SELECT state, outcome FROM stripe_event WHERE type = 'customer.created'")
    assert told == [("applied", "nothing to store")]


def test_a_customer_that_is_gone_is_not_stored_by_a_late_event_of_its_making(bench: Bench) -> None:
    gone = bench.customer(ACCOUNT)
    events = bench.world.new_events()
    bench.world.v1.customers.delete(gone)
    bench.handle_all(BEGIN)
    with pytest.raises(CrashError):
        bench.customer(ACCOUNT, stripe=Wrapped(bench.stripe, before=crash, only="create_customer"))
    bench.execute("UPDATE stripe_customer SET created_at = created_at - interval '1 hour'")
    for event in events:
        bench.store(event)
    bench.handle_stored(BEGIN)
    assert bench.rows("SELECT stripe_customer_id FROM stripe_customer") == [(None,)]


def test_usage_between_the_end_and_the_last_invoice_is_for_the_allowance(bench: Bench) -> None:
    cancelled(bench)
    bench.handle_all(ENDED)
    bench.send()
    bench.use(ACCOUNT, 4, until=ENDED + timedelta(minutes=30))
    bench.world.advance(LEFT)
    bench.handle_all(LEFT)
    assert bench.balance(ACCOUNT, LEFT) == 1235 + 400 - 1300
    assert bench.moves(ACCOUNT) == [("invoice", -1300)]
