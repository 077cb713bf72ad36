"""Operators list, replay and drop parked events, by task and by command."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.factories import team
from tests.inbox.test_apply_events import inbox, invoiced, payload
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.events import EventKind
from usage_tasks.runtime import Runtime
from usage_tasks.services.inbox.backfill_events import Backfilled, backfill_events
from usage_tasks.storage.inbox import review
from usage_tasks.tasks.stripe import events as stripe_tasks
from usage_tasks.tasks.stripe import review as tasks

ACCOUNT = team("one")


FINALIZED = add_months(BEGIN, 1) + GRACE


def fill(bench: Bench, at: Any, *, kind: EventKind = EventKind.SNAPSHOT, pages: int = 50) -> Backfilled:
    return backfill_events(bench.transaction, bench.stripe, kind, at=at, pages=pages)


def park(bench: Bench, event_id: str = "evt_1") -> None:
    stripe_tasks.receive_event(event_id=event_id, payload=payload(id=event_id))
    bench.execute("UPDATE stripe_event SET state = 'parked', outcome = 'no good' WHERE event_id = :id", id=event_id)


def audits(bench: Bench) -> list[Any]:
    return bench.rows("SELECT actor, action, details FROM audit WHERE action LIKE 'stripe_event.%' ORDER BY audit_id")


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
