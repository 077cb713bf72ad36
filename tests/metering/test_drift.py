from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.factories import HOUR, SYSTEM, call
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.population import charge_all
from tests.stripe_world.world import EVENT_NAME
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.drift import DriftKind
from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.meter_errors import RESENDS_MAX
from usage_tasks.runtime import Runtime
from usage_tasks.services.metering.drift import Compared, Question, report_drift
from usage_tasks.services.metering.send_reports import Sent
from usage_tasks.tasks.billing import metering, sync

NOON = BEGIN + 2 * HOUR
LATER = NOON + 3 * HOUR


def compare(bench: Bench, at: datetime = LATER, **options: Any) -> Compared:
    limit, after = options.pop("limit", 1000), options.pop("after", "")
    settled_for = options.pop("settled_for", timedelta(0))
    question = Question(at=at, event_name=EVENT_NAME, lag=HOUR, actor=SYSTEM, settled_for=settled_for, **options)
    return report_drift(bench.transaction, bench.stripe, question, limit=limit, after=after)


def kinds(compared: Compared) -> dict[AttributionId, tuple[DriftKind, int, int, Decimal | None]]:
    return {each.attribution_id: (each.kind, each.ledger, each.sent, each.stripe) for each in compared.drifts}


def lose(bench: Bench, customer: str) -> None:
    """Let Stripe accept a customer's events and not count them."""
    bench.world.switch("meters", reject={customer: "meter_event_customer_not_found"})


def test_where_everything_was_counted_nothing_is_astray(bench: Bench) -> None:
    bench.crowd(3, at=NOON)
    bench.send()
    compared = compare(bench)
    assert (compared.accounts, compared.unsettled, compared.drifts, compared.after) == (3, 0, [], None)


@pytest.mark.holds("stripe.drift")
def test_what_stripe_took_and_did_not_count_is_shown_in_credits_and_sent_anew_on_request(bench: Bench) -> None:
    customers = bench.crowd(3, at=NOON)
    lost = next(iter(customers))
    lose(bench, customers[lost])
    assert bench.send().accepted == 3
    assert kinds(compare(bench)) == {lost: (DriftKind.METER, 5, 5, Decimal(0))}
    assert bench.send() == Sent(accepted=0, retried=0, parked=0)  # looking repairs nothing
    bench.world.switch("meters", reject={})
    assert compare(bench, fix=True).repaired == 1
    assert bench.send() == Sent(accepted=1, retried=0, parked=0)
    assert bench.world.meter_events(customers[lost]) == [(int(NOON.timestamp()), 5)]
    assert compare(bench, fix=True).drifts == []
    (noted,) = bench.rows("SELECT actor, attribution_id FROM audit WHERE action = 'meter_report.send_anew'")
    assert noted == (SYSTEM, lost)


@pytest.mark.holds("lesson.runaway")
def test_what_stripe_never_counts_is_parked_in_the_end(bench: Bench) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON).items()
    lose(bench, customer)
    for _ in range(RESENDS_MAX):
        assert bench.send().accepted == 1
        assert compare(bench, fix=True).repaired == 1
    bench.send()
    assert compare(bench, fix=True).repaired == 0
    assert kinds(compare(bench))[account][0] is DriftKind.PARKED


def test_a_lost_report_that_a_later_one_has_overtaken_is_not_sent_again(bench: Bench) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON).items()
    lose(bench, customer)
    bench.send()
    bench.world.switch("meters", reject={})
    with bench.transaction() as connection:
        charge_all(connection, 200, at=NOON + HOUR)
    bench.sync(NOON + HOUR)
    assert kinds(compare(bench, fix=True)) == {account: (DriftKind.METER, 7, 5, Decimal(0))}
    bench.world.advance(NOON + HOUR)
    assert bench.send().accepted == 1
    assert bench.world.meter_events(customer) == [(int((NOON + HOUR).timestamp()), 7)]
    assert compare(bench).drifts == []


def test_what_somebody_else_told_the_meter_is_shown(bench: Bench) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON, cents=0).items()
    payload = {"stripe_customer_id": customer, "value": "3"}
    bench.world.v1.billing.meter_events.create(
        {"event_name": EVENT_NAME, "payload": payload, "timestamp": int(NOON.timestamp()) + 60}
    )
    assert kinds(compare(bench)) == {account: (DriftKind.METER, 0, 0, Decimal(3))}


@pytest.mark.holds("stripe.drift")
def test_what_is_owed_for_longer_than_a_sync_takes_is_shown_and_reported_on_request(bench: Bench) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON).items()
    bench.send()
    with bench.transaction() as connection:
        charge_all(connection, 250, at=NOON + HOUR)
    assert compare(bench, NOON + HOUR + timedelta(minutes=59)).drifts == []  # the next sync may still report it
    assert kinds(compare(bench)) == {account: (DriftKind.UNREPORTED, 8, 5, None)}
    assert compare(bench, fix=True).repaired == 1
    bench.world.advance(LATER)
    bench.send()
    assert bench.world.meter_events(customer)[-1] == (int(LATER.timestamp()), 8)
    assert compare(bench, LATER + HOUR).drifts == []


@pytest.mark.holds("stripe.drift")
def test_a_parked_account_and_one_that_nothing_bills_are_astray(bench: Bench) -> None:
    customers = bench.crowd(4, at=NOON)
    parked, unbillable, deleted, _ = customers
    bench.send()
    bench.execute(
        "UPDATE meter_report SET state = 'parked', parked_at = now(), accepted_at = NULL WHERE attribution_id = :a",
        a=parked,
    )
    bench.execute("UPDATE stripe_subscription SET ended_at = now() WHERE attribution_id = :a", a=unbillable)
    bench.world.v1.customers.delete(customers[deleted])
    found = {account: kind for account, (kind, *_) in kinds(compare(bench)).items()}
    assert found == {parked: DriftKind.PARKED, unbillable: DriftKind.UNBILLABLE, deleted: DriftKind.UNREADABLE}


def test_what_stripe_took_just_now_is_not_judged_yet(bench: Bench) -> None:
    ((_, customer),) = bench.crowd(1, at=NOON).items()
    lose(bench, customer)
    bench.send()
    assert compare(bench, settled_for=timedelta(minutes=15)).drifts == []
    assert compare(bench, settled_for=timedelta(0)).drifts != []


def test_accounts_are_compared_page_by_page_and_a_report_goes_on_where_it_was_cut_short(bench: Bench) -> None:
    accounts = sorted(bench.crowd(5, at=NOON))
    bench.send()
    first = compare(bench, limit=2)
    assert (first.accounts, first.after) == (2, accounts[1])
    rest = compare(bench, after=first.after or "", limit=1000)
    assert (rest.accounts, rest.after) == (3, None)


@pytest.mark.holds("stripe.drift", "lesson.restarted-schedule", "lesson.meter-errors")
def test_the_task_fails_with_the_numbers_and_a_beat_compares_once_a_day(bench: Bench, rt: Runtime, broker: str) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON).items()
    TestClock(rt.redis).advance(LATER)
    lose(bench, customer)
    sync.send_meter_events()
    told = f"1 of 1 accounts astray .1 meter., 0 repaired: {account}: meter, ledger 5, sent 5, stripe 0"
    with pytest.raises(PermanentError, match=told):
        call(metering.drift_report, scheduled=True)
    assert call(metering.drift_report, scheduled=True) == {"skipped": 1}
    bench.world.switch("meters", reject={})
    with pytest.raises(PermanentError, match="1 repaired"):
        call(metering.drift_report, fix=True)
    sync.send_meter_events()
    clean = {"accounts": 1, "unsettled": 0, "repaired": 0, "astray": {}, "sample": []}
    assert call(metering.drift_report) == clean
