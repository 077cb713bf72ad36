"""The inbox heals itself from Stripe's list, takes thin events, and lets operators replay and drop."""

import json
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.factories import DAY, HOUR, team
from tests.inbox.test_apply_events import due_again, inbox, invoiced, payload
from tests.stripe_gateway.canned import answering, error
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError, PermanentError, RetryableError
from usage_tasks.domain.events import EventKind
from usage_tasks.runtime import Runtime
from usage_tasks.services.inbox import backfill_events as backfilling
from usage_tasks.services.inbox.backfill_events import Backfilled, backfill_events
from usage_tasks.storage.inbox import review
from usage_tasks.stripe_gateway.live import LiveGateway
from usage_tasks.tasks.stripe import events as stripe_tasks
from usage_tasks.tasks.stripe import review as tasks

ACCOUNT = team("one")
FINALIZED = add_months(BEGIN, 1) + GRACE


def thin(**fields: Any) -> str:
    event = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2026-01-31T10:00:00.123Z",
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    }
    return json.dumps(event | fields)


def fill(bench: Bench, at: Any, *, kind: EventKind = EventKind.SNAPSHOT, pages: int = 50) -> Backfilled:
    return backfill_events(bench.transaction, bench.stripe, kind, at=at, pages=pages)


def stored(bench: Bench) -> list[str]:
    return [row.event_id for row in bench.rows("SELECT event_id FROM stripe_event ORDER BY event_id")]


def all_listed(bench: Bench) -> list[str]:
    return sorted(event.id for event in bench.world.v1.events.list({"limit": 100}).auto_paging_iter())


def bill_unheard(bench: Bench) -> int:
    """A month of 12.34 credits ends in an invoice, and nobody hears of it; answer how many events were known before."""
    bench.pay(ACCOUNT)
    fill(bench, BEGIN)
    before = len(stored(bench))
    bench.use(ACCOUNT, "12.35", until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(FINALIZED)
    return before


def park(bench: Bench, event_id: str = "evt_1") -> None:
    stripe_tasks.receive_event(event_id=event_id, payload=payload(id=event_id))
    bench.execute("UPDATE stripe_event SET state = 'parked', outcome = 'no good' WHERE event_id = :id", id=event_id)


def audits(bench: Bench) -> list[Any]:
    return bench.rows("SELECT actor, action, details FROM audit WHERE action LIKE 'stripe_event.%' ORDER BY audit_id")


# Thin events


def test_a_thin_event_is_stored_with_what_it_is_about(bench: Bench, rt: Runtime, broker: str) -> None:
    for new in (1, 0):
        assert stripe_tasks.receive_event(event_id="evt_thin", payload=thin()) == {"stored": new}
    row = inbox(bench, "evt_thin")
    assert (row.type, row.object_id) == ("v1.billing.meter.error_report_triggered", "mtr_1")
    assert row.created_at.isoformat() == "2026-01-31T10:00:00.123000+00:00"


@pytest.mark.parametrize(
    "bad",
    [
        {"type": None},
        {"type": "a\u0000"},
        {"created": "soon"},
        {"created": 5},
        {"created": "2026-01-31T10:00:00"},
        {"related_object": "mtr_1"},
        {"related_object": {"id": 7}},
        {"id": "evt_2"},
    ],
)
def test_a_thin_event_that_is_none_is_refused(bench: Bench, rt: Runtime, broker: str, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        stripe_tasks.receive_event(event_id="evt_thin", payload=thin(**bad))
    assert stored(bench) == []


def test_many_events_ask_for_one_task(bench: Bench, rt: Runtime, broker: str) -> None:
    TestClock(rt.redis).advance(BEGIN)
    for number in range(5):
        stripe_tasks.receive_event(event_id=f"evt_{number}", payload=payload(id=f"evt_{number}", type="something.new"))
    assert rt.redis.llen("usage:stripe") == 1
    stripe_tasks.apply_events()
    stripe_tasks.receive_event(event_id="evt_9", payload=payload(id="evt_9", type="customer.updated"))
    assert rt.redis.llen("usage:stripe") == 2


# Backfill


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


# Operators


@pytest.mark.holds("inbox.parked")
def test_a_parked_event_is_replayed_with_an_audit_row(bench: Bench, rt: Runtime, broker: str) -> None:
    TestClock(rt.redis).advance(BEGIN)
    park(bench)
    planned: Any = tasks.replay_events(actor="service:test", ids=["evt_1"])
    assert planned == {"dry_run": {"events": 1, "ids": ["evt_1"]}}
    assert inbox(bench, "evt_1").state == "parked"
    assert tasks.replay_events(actor="service:test", all_parked=True, dry_run=False) == planned["dry_run"]
    assert (inbox(bench, "evt_1").state, inbox(bench, "evt_1").attempts) == ("pending", 0)
    [row] = audits(bench)
    assert (row.actor, row.action) == ("service:test", "stripe_event.replay")
    assert row.details == {"event_id": "evt_1", "type": "invoice.created", "was": "parked", "outcome": "no good"}


@pytest.mark.holds("inbox.dropped")
def test_a_dropped_event_stays_dropped_whoever_sends_it_again(bench: Bench, rt: Runtime, broker: str) -> None:
    TestClock(rt.redis).advance(BEGIN)
    park(bench)
    done: Any = tasks.drop_events(actor="service:test", reason="not ours", ids=["evt_1"], dry_run=False)
    assert done["events"] == 1
    assert stripe_tasks.receive_event(event_id="evt_1", payload=payload()) == {"stored": 0}
    assert (inbox(bench, "evt_1").state, inbox(bench, "evt_1").outcome) == ("dropped", "not ours")
    [row] = audits(bench)
    assert (row.action, row.details["reason"]) == ("stripe_event.drop", "not ours")
    assert tasks.drop_events(actor="service:test", reason="x", all_parked=True, dry_run=False) == {
        "events": 0,
        "ids": [],
    }
    assert len(audits(bench)) == 1


def test_what_is_applied_is_not_dropped_and_its_replay_counts_nothing_twice(
    bench: Bench, rt: Runtime, broker: str
) -> None:
    invoiced(bench)
    fill(bench, FINALIZED)
    fill(bench, FINALIZED)
    TestClock(rt.redis).advance(FINALIZED)
    bench.apply(FINALIZED)
    applied = bench.rows("SELECT event_id FROM stripe_event WHERE type = 'invoice.finalized'")
    ids = [row.event_id for row in applied]
    dropped: Any = tasks.drop_events(actor="service:test", reason="x", ids=ids, dry_run=False)
    assert dropped["events"] == 0
    before = bench.balance(ACCOUNT, FINALIZED)
    tasks.replay_events(actor="service:test", ids=ids, dry_run=False)
    bench.apply(FINALIZED)
    assert bench.balance(ACCOUNT, FINALIZED) == before


@pytest.mark.parametrize("arguments", [{}, {"ids": ["evt_1"], "all_parked": True}])
def test_what_is_meant_must_be_said(rt: Runtime, arguments: dict[str, Any]) -> None:
    with pytest.raises(PermanentError, match="all_parked"):
        tasks.replay_events(actor="service:test", **arguments)


@pytest.mark.holds("inbox.two-events")
def test_two_events_of_one_fact_are_shown_together(bench: Bench, rt: Runtime, broker: str) -> None:
    for event_id in ("evt_1", "evt_2"):
        stripe_tasks.receive_event(event_id=event_id, payload=payload(id=event_id))
    stripe_tasks.receive_event(event_id="evt_3", payload=payload(id="evt_3", created=2))
    with bench.transaction() as connection:
        row = review.find_event(connection, "evt_1")
        assert row is not None
        assert review.list_twins(connection, row, limit=10) == ["evt_2"]


def test_the_commands_list_show_replay_and_drop(bench: Bench, rt: Runtime, broker: str) -> None:
    TestClock(rt.redis).advance(BEGIN)
    park(bench)
    park(bench, "evt_2")
    stripe_tasks.receive_event(event_id="evt_3", payload=payload(id="evt_3"))
    run = CliRunner()
    lines = run.invoke(cli, ["webhooks", "list", "--json"]).stdout.splitlines()
    assert [json.loads(line)["event_id"] for line in lines] == ["evt_1", "evt_2"]
    assert len(run.invoke(cli, ["webhooks", "list", "--every", "--json"]).stdout.splitlines()) == 3
    assert "no good" in run.invoke(cli, ["webhooks", "list"], env={"COLUMNS": "200"}).stdout
    shown = json.loads(run.invoke(cli, ["webhooks", "show", "evt_1", "--json"]).stdout)
    assert (shown["state"], shown["outcome"], shown["twins"]) == ("parked", "no good", ["evt_2", "evt_3"])
    assert run.invoke(cli, ["webhooks", "show", "evt_none"]).exit_code == 1
    assert '"dry_run": {' in run.invoke(cli, ["webhooks", "replay", "evt_1"]).stdout
    assert '"dry_run": {' not in run.invoke(cli, ["webhooks", "replay", "evt_1", "--apply"]).stdout
    assert run.invoke(cli, ["webhooks", "drop", "--all"]).exit_code == 2
    run.invoke(cli, ["webhooks", "drop", "--all", "--reason", "not ours", "--apply"])
    states = [row.state for row in bench.rows("SELECT state FROM stripe_event ORDER BY event_id")]
    assert states == ["pending", "dropped", "pending"]
    assert {row.actor for row in audits(bench)} == {"service:usage-tasks"}


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
