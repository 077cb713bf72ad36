import json
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.factories import HOUR, team
from tests.stripe_world.bench import Bench, CrashError, Wrapped, at_once, crash
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import (
    InvariantError,
    PermanentError,
    RetryableError,
    StaleVersionError,
)
from usage_tasks.runtime import Runtime
from usage_tasks.services.inbox.apply_events import Applied
from usage_tasks.services.inbox.parse_event import parse_event
from usage_tasks.storage.inbox.events import store_event
from usage_tasks.tasks.stripe import events as tasks

ACCOUNT = team("one")


PERIOD_END = add_months(BEGIN, 1)


FINALIZED = PERIOD_END + GRACE


def raising(error: Exception) -> Any:
    def fail() -> None:
        raise error

    return fail


def inbox(bench: Bench, event_id: str) -> Any:
    return bench.rows("SELECT * FROM stripe_event WHERE event_id = :event", event=event_id)[0]


def due_again(bench: Bench) -> None:
    bench.execute(
        "UPDATE stripe_event SET next_attempt_at = clock_timestamp(), claimed_until = NULL WHERE state = 'pending'"
    )


def invoiced(bench: Bench) -> list[str]:
    """An account whose first month of 12.35 credits is invoiced; return the events, none applied yet."""
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, "12.35", until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FINALIZED)
    return [event.id for event in bench.world.new_events() if event.type.startswith("invoice.")]


def entry(bench: Bench) -> Any:
    found = bench.rows("SELECT * FROM ledger_entry WHERE kind = 'invoice' AND credit_cents <> 0")
    assert len(found) == 1
    return found[0]


def payload(**event: Any) -> str:
    fields = {"id": "evt_1", "type": "invoice.created", "created": 1, "data": {"object": {"id": "in_1"}}}
    return json.dumps(fields | event)


@pytest.mark.holds("receiver.same-event")
def test_an_event_is_stored_once(bench: Bench, rt: Runtime, broker: str) -> None:
    for stored in (1, 0, 0):
        assert tasks.receive_event(event_id="evt_1", payload=payload()) == {"stored": stored}
    assert inbox(bench, "evt_1").state == "pending"


def test_events_received_at_once_are_stored_once(bench: Bench, rt: Runtime, broker: str) -> None:
    answers = at_once(*[lambda: tasks.receive_event(event_id="evt_1", payload=payload())] * 4)
    assert sum(answer["stored"] for answer in answers) == 1


@pytest.mark.parametrize("kind", ["customer.source.created", "invoice.upcoming", "something.new"])
def test_an_event_of_another_type_is_stored_and_counted(bench: Bench, kind: str) -> None:
    with bench.transaction() as connection:
        store_event(connection, parse_event("evt_1", payload(type=kind)))
    assert bench.apply(BEGIN) == Applied(applied=1, ignored=1, retried=0, parked=0, reports=0)
    assert (inbox(bench, "evt_1").state, inbox(bench, "evt_1").outcome) == ("applied", "ignored")


def test_an_event_without_the_object_that_it_is_about_is_parked(bench: Bench) -> None:
    with bench.transaction() as connection:
        store_event(connection, parse_event("evt_1", payload(type="invoice.paid", data={"object": {}})))
    assert bench.apply(BEGIN) == Applied(applied=0, retried=0, parked=1, reports=0)
    assert "without the id" in inbox(bench, "evt_1").outcome


def test_a_draft_brings_the_closing_report(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, "0.05", until=PERIOD_END)
    bench.world.advance(PERIOD_END)
    bench.receive()
    late = PERIOD_END + timedelta(minutes=20)
    bench.use(ACCOUNT, 9, until=late)
    assert bench.apply(late).reports == 1
    assert bench.reports() == [(PERIOD_END - timedelta(seconds=1), 1, "pending")]
    bench.send()
    bench.world.advance(FINALIZED)
    assert bench.world.billed_credits(bench.world.customers()[0].id) == [1]


@pytest.mark.holds("stripe.invoice-lines")
def test_a_finalized_invoice_is_entered_once_with_its_time_and_description(bench: Bench) -> None:
    invoiced(bench)
    for event in bench.world.v1.events.list({"limit": 100, "type": "invoice.finalized"}).data:
        bench.store(event)
    bench.apply(FINALIZED)
    invoice = bench.world.invoices()[-1]
    made = entry(bench)
    assert made.credit_cents == -1300
    assert made.description == f"Invoice {invoice.id} finalized in Stripe"
    assert made.effective_at.timestamp() == invoice.status_transitions.finalized_at
    assert made.key == f"invoice:{invoice.id}"
    assert bench.balance(ACCOUNT, FINALIZED) == 1235 - 1300


@pytest.mark.holds("stripe.after-invoice")
def test_booking_an_invoice_advances_the_cycle_and_changes_nothing_that_was_told_right(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.use(ACCOUNT, 3, until=PERIOD_END + timedelta(minutes=30))
    bench.sync_and_send(PERIOD_END + timedelta(minutes=40))
    bench.world.advance(FINALIZED)
    assert bench.receive_and_apply(FINALIZED).reports == 0
    cycle = bench.rows("SELECT cycle_started_at, next_billing_at FROM cost_center WHERE superseded_at IS NULL")[0]
    assert tuple(cycle) == (PERIOD_END, add_months(BEGIN, 2))
    assert [quantity for _, quantity, _ in bench.reports()] == [12, 3]


@pytest.mark.holds("stripe.after-invoice")
def test_what_an_invoice_left_out_is_reported_at_once_when_it_is_booked(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.use(ACCOUNT, 3, until=PERIOD_END - HOUR)
    bench.world.advance(PERIOD_END)
    bench.receive_and_apply(PERIOD_END)  # the closing quantity of 15 is stored, but never reaches Stripe
    bench.world.advance(FINALIZED)
    assert bench.receive_and_apply(FINALIZED).reports == 1
    assert entry(bench).credit_cents == -1200
    assert bench.reports()[-1] == (FINALIZED, 3, "pending")


@pytest.mark.holds("stripe.after-invoice")
def test_the_balance_before_an_invoice_is_not_told_in_the_period_after_it(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FINALIZED)
    bench.receive_and_apply(FINALIZED)
    assert bench.sync(PERIOD_END) == 0  # asked for late, between the period's end and the invoice
    assert [quantity for _, quantity, _ in bench.reports()] == [12]


@pytest.mark.holds("stripe.invoice-order")
def test_an_invoice_waits_for_the_one_of_the_period_before(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FINALIZED)
    lost = [event for event in bench.world.new_events() if event.type.startswith("invoice.")]
    second = add_months(BEGIN, 2) + HOUR
    bench.world.advance(second)
    assert bench.receive_and_apply(second).retried == 3  # created, finalized and paid: all find the invoice final
    for event in lost:
        bench.store(event)
    bench.execute("UPDATE stripe_event SET next_attempt_at = clock_timestamp()")
    assert bench.apply(second).parked == 0
    bench.execute("UPDATE stripe_event SET next_attempt_at = clock_timestamp()")
    bench.apply(second)
    assert bench.rows("SELECT count(*) AS n FROM stripe_event WHERE state <> 'applied'")[0].n == 0
    assert bench.rows("SELECT next_billing_at FROM cost_center WHERE superseded_at IS NULL")[0][0] == add_months(
        BEGIN, 3
    )


@pytest.mark.holds("stripe.invoice-once", "receiver.same-event", "lesson.invoice-twice")
def test_the_same_events_five_times_make_one_entry(bench: Bench) -> None:
    events = [bench.world.v1.events.retrieve(event) for event in invoiced(bench)]
    for _ in range(5):
        for event in events:
            bench.store(event)
        bench.execute("UPDATE stripe_event SET state = 'pending', applied_at = NULL, claimed_until = NULL")
        bench.apply(FINALIZED)
    assert entry(bench).credit_cents == -1300
    assert bench.rows("SELECT max(version) AS v FROM cost_center")[0].v == 3


@pytest.mark.holds("stripe.invoice-once", "inbox.two-events")
def test_two_events_about_one_invoice_make_one_entry(bench: Bench) -> None:
    event = bench.world.v1.events.retrieve(invoiced(bench)[1])
    assert event.type == "invoice.finalized"
    for twin in ("evt_a", "evt_b"):
        bench.execute(
            "INSERT INTO stripe_event (event_id, type, object_id, created_at) VALUES (:id, :type, :object, now())",
            id=twin,
            type=event.type,
            object=event.data.object["id"],
        )
    at_once(lambda: bench.apply(FINALIZED), lambda: bench.apply(FINALIZED))
    entry(bench)
    assert {inbox(bench, twin).state for twin in ("evt_a", "evt_b")} == {"applied"}
    assert {inbox(bench, twin).outcome for twin in ("evt_a", "evt_b")} == {
        "invoice booked",
        "invoice was booked before",
    }


@pytest.mark.holds("lesson.invoice-twice")
def test_workers_at_once_with_the_same_event_make_one_entry(bench: Bench) -> None:
    invoiced_events = invoiced(bench)
    for event_id in invoiced_events:
        bench.store(bench.world.v1.events.retrieve(event_id))

    def lose_lease() -> None:
        bench.execute("UPDATE stripe_event SET claimed_until = NULL WHERE state = 'pending'")

    at_once(*[lambda: bench.apply(FINALIZED, Wrapped(bench.stripe, after=lose_lease))] * 3)
    entry(bench)
    assert bench.rows("SELECT count(*) AS n FROM stripe_event WHERE state <> 'applied'")[0].n == 0
    assert bench.rows("SELECT max(version) AS v FROM cost_center")[0].v == 3


@pytest.mark.parametrize("error", [PermanentError("no"), RetryableError("busy")], ids=["no", "busy"])
def test_a_worker_whose_lease_ran_out_leaves_the_event_to_the_one_at_it(bench: Bench, error: Exception) -> None:
    event_id = invoiced(bench)[0]
    bench.store(bench.world.v1.events.retrieve(event_id))
    held: list[Any] = []

    def overtaken() -> None:
        bench.execute("UPDATE stripe_event SET claimed_until = claimed_until + interval '1 second'")
        held.append(inbox(bench, event_id))
        raise error

    bench.apply(FINALIZED, Wrapped(bench.stripe, before=overtaken))
    assert held == [inbox(bench, event_id)]
    assert (held[0].state, held[0].claimed_until is None) == ("pending", False)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
def test_events_in_any_order_make_one_entry(bench: Bench, order: tuple[int, ...]) -> None:
    events = [bench.world.v1.events.retrieve(event) for event in invoiced(bench)]
    assert [event.type for event in events] == ["invoice.created", "invoice.finalized", "invoice.paid"]
    for place in order:
        bench.store(events[place])
        bench.apply(FINALIZED)
    assert entry(bench).credit_cents == -1300


@pytest.mark.holds("lesson.lost-enqueue")
def test_a_crash_during_the_call_leaves_the_event_to_the_next(bench: Bench) -> None:
    for event_id in invoiced(bench):
        bench.store(bench.world.v1.events.retrieve(event_id))
    with pytest.raises(CrashError):
        bench.apply(FINALIZED, Wrapped(bench.stripe, before=crash))
    assert bench.apply(FINALIZED) == Applied(applied=0, retried=0, parked=0, reports=0)
    bench.execute("UPDATE stripe_event SET claimed_until = clock_timestamp() - interval '1 second'")
    bench.apply(FINALIZED)
    entry(bench)


@pytest.mark.holds("stripe.invoice-lines", "lesson.foreign-lines")
def test_only_lines_of_our_prices_are_credits(bench: Bench) -> None:
    customer = bench.pay(ACCOUNT)
    ours, foreign = [bench.world.flat_price() for _ in range(4)], bench.world.flat_price()
    quantities = [1000, 0, 31, 0]
    items = [{"price": price, "quantity": quantity} for price, quantity in zip(ours, quantities, strict=True)]
    items.append({"price": foreign, "quantity": 7})
    made = bench.world.v1.subscriptions.create({"customer": customer, "items": items})
    bench.execute("UPDATE stripe_subscription SET stripe_subscription_id = :made", made=made.id)
    bench.receive()
    bench.apply(BEGIN, our_prices=frozenset(ours))
    assert entry(bench).credit_cents == -103_100


def test_an_invoice_of_a_price_that_is_configured_no_more_is_still_credits(bench: Bench) -> None:
    for event_id in invoiced(bench):
        bench.store(bench.world.v1.events.retrieve(event_id))
    bench.apply(FINALIZED, our_prices=frozenset({"price_new"}))
    assert entry(bench).credit_cents == -1300


def test_an_invoice_of_nobody_of_ours_has_no_effect(bench: Bench) -> None:
    stranger = bench.world.v1.customers.create({"email": "stranger@example.com"})
    price = bench.world.price_by_currency["usd"]
    bench.world.v1.subscriptions.create({"customer": stranger.id, "items": [{"price": price}]})
    events = bench.receive()
    assert bench.apply(BEGIN) == Applied(applied=len(events), retried=0, parked=0, reports=0)
    assert {inbox(bench, event).outcome for event in events} == {"not of a subscription of ours"}
    assert bench.rows("SELECT key FROM ledger_entry") == []


@pytest.mark.holds("stripe.foreign-subscription")
def test_an_invoice_of_a_foreign_subscription_of_our_customer_has_no_effect(bench: Bench) -> None:
    customer = bench.pay(ACCOUNT)
    seat = bench.world.flat_price()
    bench.world.v1.subscriptions.create({"customer": customer, "items": [{"price": seat, "quantity": 7}]})
    events = bench.receive()
    assert bench.apply(BEGIN, our_prices=bench.world.our_prices | {seat}).applied == len(events)
    assert {inbox(bench, event).outcome for event in events} == {"not of a subscription of ours"}
    assert bench.invoice_entries(ACCOUNT) == []


def test_the_first_invoice_may_arrive_before_the_account_is_switched(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    with pytest.raises(CrashError):
        bench.subscription(ACCOUNT, stripe=Wrapped(bench.stripe, after=crash, only="create_"))
    events = bench.receive()
    bench.apply(BEGIN)
    due_again(bench)
    bench.subscription(ACCOUNT)
    bench.apply(BEGIN)
    assert {inbox(bench, event).state for event in events} == {"applied"}
    assert bench.balance(ACCOUNT, BEGIN) == 0


def test_an_event_whose_invoice_cannot_be_fetched_now_is_applied_later(bench: Bench) -> None:
    event_id = invoiced(bench)[1]
    bench.store(bench.world.v1.events.retrieve(event_id))
    busy = Wrapped(bench.stripe, before=raising(RetryableError("busy")))
    assert bench.apply(FINALIZED, busy) == Applied(applied=0, retried=1, parked=0, reports=0)
    assert (inbox(bench, event_id).state, inbox(bench, event_id).outcome) == ("pending", "busy")
    assert bench.apply(FINALIZED).applied == 0
    due_again(bench)
    assert bench.apply(FINALIZED).applied == 1
    entry(bench)


def test_an_event_that_can_never_be_applied_is_parked_and_the_others_go_on(bench: Bench) -> None:
    good = invoiced(bench)[1]
    with bench.transaction() as connection:
        store_event(connection, parse_event("evt_1", payload(data={"object": {"id": "in_nobody"}})))
    bench.store(bench.world.v1.events.retrieve(good))
    assert bench.apply(FINALIZED) == Applied(applied=1, retried=0, parked=1, reports=0)
    assert inbox(bench, "evt_1").state == "parked"
    assert "resource_missing" in inbox(bench, "evt_1").outcome
    entry(bench)


def test_an_event_that_breaks_an_invariant_is_parked_and_the_others_go_on(bench: Bench) -> None:
    events = invoiced(bench)[:2]
    for event_id in events:
        bench.store(bench.world.v1.events.retrieve(event_id))
    broken = Wrapped(bench.stripe, before=raising(InvariantError("our bug")))
    assert bench.apply(FINALIZED, broken) == Applied(applied=0, retried=0, parked=2, reports=0)


def test_an_event_that_loses_a_race_for_the_cost_center_is_applied_later(bench: Bench) -> None:
    event_id = invoiced(bench)[1]
    bench.store(bench.world.v1.events.retrieve(event_id))
    raced = Wrapped(bench.stripe, before=raising(StaleVersionError("try again")))
    assert bench.apply(FINALIZED, raced) == Applied(applied=0, retried=1, parked=0, reports=0)


def test_the_task_applies_has_reports_sent_and_says_how_much(bench: Bench, rt: Runtime, broker: str) -> None:
    for event_id in invoiced(bench):
        bench.store(bench.world.v1.events.retrieve(event_id))
    bench.use(ACCOUNT, 3, until=FINALIZED)
    TestClock(rt.redis).advance(FINALIZED)
    assert tasks.apply_events() == {"applied": 3, "ignored": 0, "retried": 0, "parked": 0, "reports": 1}
    assert rt.redis.llen("usage:billing") == 1


@pytest.mark.holds("lesson.green-metrics")
def test_the_task_ends_in_error_with_counts_if_an_event_was_parked(bench: Bench, rt: Runtime, broker: str) -> None:
    TestClock(rt.redis).advance(FINALIZED)
    tasks.receive_event(event_id="evt_1", payload=payload(data={"object": {"id": "in_nobody"}}))
    with pytest.raises(PermanentError, match="1 parked"):
        tasks.apply_events()
    assert tasks.apply_events() == {"applied": 0, "ignored": 0, "retried": 0, "parked": 0, "reports": 0}


def test_an_invoice_over_a_fraction_of_a_credit_is_entered_to_the_cent(bench: Bench) -> None:
    customer = bench.pay(ACCOUNT)
    payload_ = {"stripe_customer_id": customer, "value": "2.675"}
    bench.world.v1.billing.meter_events.create({"event_name": "usage_credits", "payload": payload_})
    bench.world.advance(FINALIZED)
    bench.receive_and_apply(FINALIZED)
    assert bench.world.billed_credits(customer) == [Decimal("2.675")]
    assert entry(bench).credit_cents == -268


def test_many_events_ask_for_one_task(bench: Bench, rt: Runtime, broker: str) -> None:
    TestClock(rt.redis).advance(BEGIN)
    for number in range(5):
        tasks.receive_event(event_id=f"evt_{number}", payload=payload(id=f"evt_{number}", type="something.new"))
    assert rt.redis.llen("usage:stripe") == 1
    tasks.apply_events()
    tasks.receive_event(event_id="evt_9", payload=payload(id="evt_9", type="customer.updated"))
    assert rt.redis.llen("usage:stripe") == 2
