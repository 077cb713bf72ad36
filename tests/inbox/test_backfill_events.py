"""Stripe's own list of events brings the events that no webhook brought."""

from datetime import timedelta
from typing import Any

import pytest

from tests.factories import DAY, HOUR, team
from tests.inbox.test_apply_events import due_again, inbox, invoiced
from tests.stripe_gateway.canned import answering, error
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import RetryableError
from usage_tasks.domain.events import EventKind
from usage_tasks.runtime import Runtime
from usage_tasks.services.inbox import backfill_events as backfilling
from usage_tasks.services.inbox.backfill_events import Backfilled, backfill_events
from usage_tasks.stripe_gateway.live import LiveGateway
from usage_tasks.tasks.stripe import review as tasks

ACCOUNT = team("one")


FINALIZED = add_months(BEGIN, 1) + GRACE


def fill(bench: Bench, at: Any, *, kind: EventKind = EventKind.SNAPSHOT, pages: int = 50) -> Backfilled:
    return backfill_events(bench.transaction, bench.stripe, kind, at=at, pages=pages)


def stored(bench: Bench) -> list[str]:
    return [row.event_id for row in bench.rows("SELECT event_id FROM stripe_event ORDER BY event_id")]


def all_listed(bench: Bench) -> list[str]:
    return sorted(event.id for event in bench.world.v1.events.list({"limit": 100}).auto_paging_iter())


def bill_unheard(bench: Bench) -> int:
    """Invoice a month of 12.35 credits without a webhook; return how many events were known before."""
    bench.pay(ACCOUNT)
    fill(bench, BEGIN)
    before = len(stored(bench))
    bench.use(ACCOUNT, "12.35", until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FINALIZED)
    return before


@pytest.mark.holds("inbox.backfill", "lesson.lost-enqueue")
def test_after_a_day_without_a_receiver_everything_is_there_once_and_applied(bench: Bench) -> None:
    before = bill_unheard(bench)
    assert fill(bench, FINALIZED + DAY).stored == len(all_listed(bench)) - before > 3
    assert stored(bench) == all_listed(bench)
    bench.apply(FINALIZED + DAY)
    balance = bench.balance(ACCOUNT, FINALIZED + DAY)
    again = fill(bench, FINALIZED + DAY + HOUR)
    assert (again.stored, again.unfinished) == (0, 0)
    due_again(bench)
    bench.apply(FINALIZED + DAY + HOUR)
    assert bench.balance(ACCOUNT, FINALIZED + DAY + HOUR) == balance
    [invoice] = bench.rows("SELECT credit_cents FROM ledger_entry WHERE kind = 'invoice' AND credit_cents <> 0")
    assert invoice.credit_cents < 0


@pytest.mark.holds("inbox.backfill-resumed")
def test_a_walk_goes_on_where_it_was_cut_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfilling, "PAGE", 2)
    before = bill_unheard(bench)
    runs = [fill(bench, FINALIZED, pages=2)]
    while runs[-1].unfinished:
        runs.append(fill(bench, FINALIZED + HOUR, pages=2))
    assert len(runs) > 2
    assert stored(bench) == all_listed(bench)
    assert sum(run.stored for run in runs) == len(stored(bench)) - before


@pytest.mark.holds("inbox.backfill-resumed")
def test_a_walk_that_stands_at_an_event_that_is_gone_begins_again(bench: Bench) -> None:
    bill_unheard(bench)
    bench.execute("UPDATE stripe_walk SET cursor = 'evt_gone', until = :at WHERE name = 'events'", at=FINALIZED)
    assert fill(bench, FINALIZED).unfinished == 1
    assert fill(bench, FINALIZED).unfinished == 0
    assert stored(bench) == all_listed(bench)


@pytest.mark.holds("inbox.backfill")
def test_an_event_that_was_lost_in_between_is_found(bench: Bench) -> None:
    invoiced(bench)
    fill(bench, FINALIZED)
    fill(bench, FINALIZED)
    lost = bench.rows("SELECT event_id FROM stripe_event ORDER BY created_at DESC LIMIT 1")[0].event_id
    bench.execute("DELETE FROM stripe_event WHERE event_id = :lost", lost=lost)
    assert fill(bench, FINALIZED + timedelta(minutes=5)).stored == 1
    assert inbox(bench, lost).source == "backfill"


def test_when_stripe_is_away_the_walk_stands_still(bench: Bench) -> None:
    bill_unheard(bench)
    with answering((500, error())) as away:
        broken = LiveGateway(secret_key="sk_test_1", meter_event_name="x", api_base=away.url)
        with pytest.raises(RetryableError):
            backfill_events(bench.transaction, broken, EventKind.SNAPSHOT, at=FINALIZED)
    fill(bench, FINALIZED)
    assert stored(bench) == all_listed(bench)


def test_thin_events_are_backfilled_from_their_own_list(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfilling, "PAGE", 2)
    fill(bench, BEGIN, kind=EventKind.THIN)
    with bench.world.server.simulator.world() as world:
        for number in range(5):
            world.emit_thin("v1.billing.meter.no_meter_found", meter=None, data={"number": number}, at=world.now())
    done = fill(bench, BEGIN + HOUR, kind=EventKind.THIN)
    assert done == Backfilled(listed=5, stored=5)
    assert {row.type for row in bench.rows("SELECT type FROM stripe_event")} == {"v1.billing.meter.no_meter_found"}


def test_the_job_fills_in_and_has_applied(bench: Bench, rt: Runtime, broker: str) -> None:
    TestClock(rt.redis).advance(BEGIN)
    before = bill_unheard(bench)
    TestClock(rt.redis).advance(FINALIZED)
    answer: Any = tasks.backfill_events()
    assert answer["stored"] == len(stored(bench)) - before > 0
    assert rt.redis.llen("usage:stripe") == 1
    assert tasks.backfill_events(scheduled=True) != {"skipped": 1}
    assert tasks.backfill_events(scheduled=True) == {"skipped": 1}


def test_a_meter_error_that_only_the_list_of_thin_events_tells_reaches_its_account(bench: Bench) -> None:
    noon = BEGIN + 2 * HOUR
    ((account, customer),) = bench.crowd(1, at=noon).items()
    fill(bench, BEGIN, kind=EventKind.THIN)
    bench.world.switch("meters", reject={customer: "meter_event_customer_not_found"})
    bench.send()
    assert fill(bench, noon, kind=EventKind.THIN).stored == 1
    bench.apply(noon)
    [event] = bench.rows("SELECT state, outcome FROM stripe_event WHERE type LIKE 'v1.billing.meter.%'")
    assert event.state == "applied"
    assert "parked 1" in event.outcome
    [report] = bench.rows("SELECT state FROM meter_report WHERE attribution_id = :account", account=account)
    assert report.state == "parked"
