from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.factories import DAY, HOUR, SYSTEM, call
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.population import charge_all
from tests.stripe_world.world import stripe_world
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.errors import PermanentError
from usage_tasks.runtime import Runtime
from usage_tasks.services.metering.meter_errors import MeterErrorsHandled, handle_meter_errors
from usage_tasks.services.metering.send_reports import Sent
from usage_tasks.storage.engine import Database
from usage_tasks.tasks.billing import metering

NOON = BEGIN + 2 * HOUR
SENT_ANEW = {"sent_anew": 1, "dropped": 0, "parked_anew": None}


def handle(bench: Bench, event_id: str | None = None) -> MeterErrorsHandled:
    """Handle the latest thin event."""
    thin = event_id or bench.world.thin_events()[-1]
    return handle_meter_errors(bench.transaction, bench.stripe, thin, at=NOON)


def fields(bench: Bench, account: str) -> Any:
    (row,) = bench.rows(
        "SELECT state, error, resends, identifier, next_attempt_at - clock_timestamp() AS wait FROM meter_report "
        "WHERE attribution_id = :account ORDER BY as_of DESC LIMIT 1",
        account=account,
    )
    return row


def reject(bench: Bench, codes: dict[str, str]) -> None:
    bench.world.switch("meters", reject=codes)


@pytest.mark.holds("stripe.meter-error")
def test_an_account_whose_event_failed_for_good_is_parked_and_announced(bench: Bench) -> None:
    customers = bench.crowd(3, at=NOON)
    bad = next(iter(customers))
    reject(bench, {customers[bad]: "meter_event_customer_not_found"})
    assert bench.send().accepted == 3
    assert handle(bench).parked == 1
    row = fields(bench, bad)
    assert (row.state, row.error) == ("parked", "stripe could not count it: meter_event_customer_not_found")
    (told,) = bench.messages("server.account_parked")
    assert told.payload["attribution_id"] == bad
    assert len(bench.rows("SELECT 1 FROM meter_report WHERE state = 'accepted'")) == 2


@pytest.mark.holds("stripe.meter-error", "lesson.meter-errors")
def test_an_event_that_failed_for_a_passing_reason_is_sent_anew_after_a_while(bench: Bench) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON).items()
    reject(bench, {customer: "archived_meter"})
    bench.send()
    before = fields(bench, account).identifier
    assert handle(bench).sent_anew == 1
    row = fields(bench, account)
    assert (row.state, row.resends, row.identifier) == ("pending", 1, f"{before}:1")
    assert timedelta(minutes=9) < row.wait <= timedelta(minutes=10)
    reject(bench, {})
    bench.execute("UPDATE meter_report SET next_attempt_at = clock_timestamp()")
    assert bench.send() == Sent(accepted=1, retried=0, parked=0)
    assert bench.world.meter_events(customer) == [(int(NOON.timestamp()), 5)]


def test_the_same_thin_event_twice_has_one_effect(bench: Bench) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON).items()
    reject(bench, {customer: "archived_meter"})
    bench.send()
    assert handle(bench).sent_anew == 1
    assert handle(bench) == MeterErrorsHandled(sent_anew=0, parked=0, dropped=0, doubted=0, unknown=1)
    assert fields(bench, account).resends == 1


@pytest.mark.holds("stripe.meter-error")
def test_an_event_that_came_too_late_is_dropped_and_the_next_report_tells_it(bench: Bench) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON).items()
    reject(bench, {customer: "timestamp_too_far_in_past"})
    bench.send()
    assert handle(bench).dropped == 1
    assert fields(bench, account).state == "dropped"
    assert bench.sync(NOON + HOUR) == 1
    assert bench.reports(account)[-1] == (NOON + HOUR, 5, "pending")


def test_a_failed_report_that_a_later_one_has_overtaken_is_not_sent_after_it(bench: Bench) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON).items()
    reject(bench, {customer: "archived_meter"})
    bench.send()
    reject(bench, {})
    with bench.transaction() as connection:
        charge_all(connection, 200, at=NOON + HOUR)
    bench.world.advance(NOON + HOUR)
    bench.sync(NOON + HOUR)
    bench.send()
    assert handle(bench).dropped == 1
    assert [state for _, _, state in bench.reports(account)] == ["dropped", "accepted"]
    assert bench.sync(NOON + 2 * HOUR) == 0
    assert bench.world.meter_events(customer) == [(int((NOON + HOUR).timestamp()), 7)]


def test_events_of_others_are_none_of_ours(bench: Bench) -> None:
    bench.crowd(1, at=NOON)
    bench.world.switch("meters", errors_later=True)
    payload = {"stripe_customer_id": "cus_none", "value": "1"}
    bench.world.v1.billing.meter_events.create({"event_name": "unknown", "payload": payload})
    assert handle(bench) == MeterErrorsHandled(sent_anew=0, parked=0, dropped=0, doubted=0, unknown=1)


def test_another_event_is_refused(bench: Bench) -> None:
    with pytest.raises(PermanentError):
        handle(bench, "evt_none")


@pytest.mark.holds("lesson.meter-errors")
def test_where_more_failed_than_are_named_the_others_of_that_time_are_looked_up(
    database: Database, rt: Runtime, broker: str
) -> None:
    today = datetime.now(UTC).replace(microsecond=0)  # reports are accepted by the real clock
    with stripe_world(today) as world:
        bench = Bench(database=database, world=world, stripe=world.gateway())
        rt.stripe = bench.stripe
        customers = bench.crowd(14, at=today)
        accounts = sorted(customers)
        lost = {customers[account]: "archived_meter" for account in accounts[:12]}
        world.switch("meters", reject=lost, report_after_seconds=60)
        bench.send()
        world.switch("meters", reject={})
        world.advance(today + timedelta(minutes=2))
        TestClock(rt.redis).advance(today + timedelta(minutes=2))
        handled = handle(bench)
        assert (handled.sent_anew, handled.doubted) == (10, 4)
        assert call(metering.settle_doubts) == {"accounts": 4, "repaired": 2}
        assert call(metering.settle_doubts) == {"accounts": 0, "repaired": 0}
        bench.execute("UPDATE meter_report SET next_attempt_at = clock_timestamp() WHERE state = 'pending'")
        assert bench.send().accepted == 12
        counted = [event for event in world.meter_events() if event[1]]
        assert counted == [(int(today.timestamp()), 5)] * 14


@pytest.mark.holds("stripe.release-parked", "lesson.starving-customer")
def test_a_released_account_is_sent_anew_and_its_sync_goes_on(bench: Bench, rt: Runtime, broker: str) -> None:
    customers = bench.crowd(2, at=NOON)
    account = min(customers)
    reject(bench, {customers[account]: "meter_event_customer_not_found"})
    bench.send()
    handle(bench)
    (listed,) = call(metering.list_parked, actor=SYSTEM)["accounts"]
    assert (listed["attribution_id"], listed["quantity"]) == (account, 5)
    assert bench.sync(NOON + HOUR) == 0
    reject(bench, {})
    released = call(metering.release_parked, attribution_id=account, actor="service:support", at=NOON.isoformat())
    assert released == SENT_ANEW
    (noted,) = bench.rows("SELECT actor, details FROM audit WHERE action = 'meter_report.send_anew'")
    assert (noted.actor, noted.details["reason"]) == ("service:support", "released")
    assert bench.send() == Sent(accepted=1, retried=0, parked=0)
    assert bench.world.meter_events(customers[account]) == [(int(NOON.timestamp()), 5)]
    again = call(metering.release_parked, attribution_id=account, actor=SYSTEM, at=NOON.isoformat())
    assert again == SENT_ANEW | {"sent_anew": 0}


@pytest.mark.holds("stripe.release-parked")
def test_what_is_too_old_when_it_is_released_is_told_by_the_next_report(bench: Bench, rt: Runtime, broker: str) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON).items()
    bench.world.v1.customers.delete(customer)
    assert bench.send().parked == 1
    in_time, late = NOON + 34 * DAY, NOON + 34 * DAY + timedelta(seconds=1)
    asked = {"attribution_id": account, "actor": SYSTEM}
    assert call(metering.release_parked, **asked, at=in_time.isoformat()) == {
        "sent_anew": 1,
        "dropped": 0,
        "parked_anew": None,
    }
    bench.execute("UPDATE meter_report SET state = 'parked', parked_at = now()")
    assert call(metering.release_parked, **asked, at=late.isoformat()) == SENT_ANEW | {"sent_anew": 0, "dropped": 1}
    assert bench.sync(late) == 1
    assert bench.reports(account)[-1] == (late, 5, "pending")
