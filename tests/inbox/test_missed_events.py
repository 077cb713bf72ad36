"""Off for longer than Stripe keeps events: the gap is reported, and the objects themselves show the changes."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.conftest import Clone, with_driver
from tests.factories import DAY, HOUR, team
from tests.payments.test_reflect_dispute import bank, charged
from tests.payments.test_reflect_reversals import credit
from tests.stripe_gateway.canned import answering, error
from tests.stripe_world.bench import Bench, Wrapped
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.whole import Whole
from tests.stripe_world.world import GRACE, stripe_world
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.domain.events import EventKind
from usage_tasks.runtime import Runtime
from usage_tasks.services.inbox import listed_objects
from usage_tasks.services.inbox.backfill_events import Backfilled, backfill_events
from usage_tasks.services.inbox.missed_events import look_at_objects
from usage_tasks.services.payments.reconcile_invoices import reconcile_invoices
from usage_tasks.storage.engine import Database
from usage_tasks.stripe_gateway.live import LiveGateway
from usage_tasks.tasks.stripe import review as tasks

PERIOD_END = add_months(BEGIN, 1)
FINALIZED = PERIOD_END + GRACE
OFF = PERIOD_END - DAY
"""The last time that the system was at work."""

BACK = OFF + 40 * DAY
NAMES = ("paid", "voided", "failed", "disputed", "won", "refunded", "credited", "cancelled", "deleted")
PAID, VOIDED, FAILED, DISPUTED, WON, REFUNDED, CREDITED, CANCELLED, DELETED = map(team, NAMES)
ACCOUNTS = (PAID, VOIDED, FAILED, DISPUTED, WON, REFUNDED, CREDITED, CANCELLED, DELETED)


def fill(bench: Bench, at: datetime, *, stripe: Any = None) -> Backfilled:
    done = Backfilled()
    for kind in EventKind:
        done += backfill_events(bench.transaction, stripe or bench.stripe, kind, at=at)
    return done


def look(bench: Bench, at: datetime) -> int:
    """Look at the objects to the end; return how many events that brought."""
    stored = 0
    while (done := look_at_objects(bench.transaction, bench.stripe, at=at)).unfinished:
        stored += done.stored
    return stored + done.stored


def at_work(bench: Bench) -> dict[AttributionId, str]:
    """Let every account pay, and the system be at work until OFF; return the customers."""
    customers = {account: bench.pay(account) for account in ACCOUNTS}
    for number, account in enumerate(ACCOUNTS, start=1):
        bench.use(account, 100 * number, until=BEGIN + HOUR)
    bench.world.decline(customers[FAILED])
    bench.world.decline(customers[VOIDED])
    bank(bench, "disputes", charge=charged(bench, WON))
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(OFF)
    fill(bench, OFF)
    bench.handle_stored(OFF)
    return customers


def live_on(bench: Bench, customers: dict[AttributionId, str]) -> None:
    """Change objects at Stripe while the system is off: soon after OFF, so at BACK Stripe has no event of it."""
    bench.world.advance(FINALIZED + HOUR)
    latest = {account: bench.world.invoices(customer)[-1] for account, customer in customers.items()}
    bench.world.v1.invoices.void_invoice(latest[VOIDED].id)
    bank(bench, "disputes", charge=charged(bench, DISPUTED))
    (dispute,) = [each for each in bench.world.v1.disputes.list().data if each.created < OFF.timestamp()]
    bank(bench, "disputes/step", dispute=dispute.id, step="win")
    bench.world.v1.refunds.create({"charge": charged(bench, REFUNDED)})
    credit(bench, latest[CREDITED], 50, refund_amount=50)
    (subscription,) = bench.world.v1.subscriptions.list({"customer": customers[CANCELLED]}).data
    bench.world.v1.subscriptions.cancel(subscription.id, {"invoice_now": True})
    bench.world.v1.customers.delete(customers[DELETED])
    bench.world.advance(BACK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """The states of one system at OFF and at BACK, and its customers: two seconds of CPU time, for many tests."""

    at_off: Whole
    at_back: Whole
    customers: dict[AttributionId, str]


@pytest.fixture(scope="module")
def life(clone: Clone) -> Iterator[Life]:
    with clone() as url, stripe_world(BEGIN) as world:
        database = Database(with_driver(url))
        bench = Bench(database=database, world=world, stripe=world.gateway())
        customers = at_work(bench)
        with Whole(bench) as at_off:
            live_on(bench, customers)
            with Whole(bench) as at_back:
                yield Life(at_off=at_off, at_back=at_back, customers=customers)
        database.dispose()


@pytest.fixture
def customers(life: Life) -> dict[AttributionId, str]:
    return life.customers


@pytest.fixture
def off(life: Life) -> Bench:
    """A system that was at work until now."""
    life.at_off.restore()
    return life.at_off.bench


@pytest.fixture
def back(life: Life) -> Bench:
    """A system that comes back after 40 days; it has seen nothing yet of what happened."""
    life.at_back.restore()
    return life.at_back.bench


def everything(bench: Bench) -> dict[str, list[Any]]:
    """Read every table that a second look must not change."""
    statements = {
        "ledger_entry": "SELECT * FROM ledger_entry ORDER BY attribution_id, key",
        "outbox": "SELECT * FROM outbox ORDER BY outbox_id",
        "audit": "SELECT * FROM audit ORDER BY at, action, attribution_id, details",
        "stripe_dispute": "SELECT attribution_id, status, blocked_account FROM stripe_dispute ORDER BY 1, 2",
        "stripe_refund": "SELECT * FROM stripe_refund ORDER BY stripe_refund_id",
        "dunning": "SELECT * FROM dunning ORDER BY attribution_id",
        "cost_center": "SELECT * FROM cost_center ORDER BY attribution_id, version",
        "stripe_invoice": "SELECT stripe_invoice_id, status, failed_at FROM stripe_invoice ORDER BY 1",
        "stripe_customer": "SELECT attribution_id, deleted_at, parked_at FROM stripe_customer ORDER BY 1",
    }
    return {table: bench.rows(statement) for table, statement in statements.items()}


def strategy(bench: Bench, account: str) -> str:
    statement = "SELECT billing_strategy FROM cost_center WHERE attribution_id = :a AND superseded_at IS NULL"
    return str(bench.rows(statement, a=account)[0].billing_strategy)


def first_month(bench: Bench, account: str) -> list[tuple[str, int]]:
    """Return the movements of invoices in the month that is billed while the system is off."""
    found = bench.rows(
        "SELECT kind, credit_cents FROM ledger_entry WHERE attribution_id = :a AND kind <> 'session' "
        "AND credit_cents <> 0 AND effective_at < :until ORDER BY kind, key",
        a=account,
        until=OFF + 5 * DAY,
    )
    return [(row.kind, row.credit_cents) for row in found]


def test_no_event_of_the_gap_is_in_stripes_list_any_more(back: Bench) -> None:
    kept = BACK - timedelta(days=30)
    listed = list(back.world.v1.events.list({"limit": 100}).auto_paging_iter())
    assert min(event.created for event in listed) >= kept.timestamp()
    assert not [event for event in listed if event.type in {"customer.deleted", "charge.dispute.created"}]


@pytest.mark.holds("inbox.missed")
@pytest.mark.parametrize("reconciled", [False, True], ids=["alone", "with the invoices reconciled first"])
def test_after_forty_days_all_that_happened_is_found_in_the_objects(
    back: Bench, customers: dict[AttributionId, str], *, reconciled: bool
) -> None:
    if reconciled:
        reconcile_invoices(back.context(BACK))
    assert fill(back, BACK).missed == 1
    assert look(back, BACK) > 0
    done = back.handle_stored(BACK)
    assert (done.retried, done.parked) == (0, 0)
    assert [first_month(back, each) for each in (PAID, FAILED, DISPUTED, WON, REFUNDED, CANCELLED, DELETED)] == [
        [("invoice", -10_000 * number)] for number in (1, 3, 4, 5, 6, 8, 9)
    ]
    assert first_month(back, VOIDED) == [("invoice", -20_000), ("invoice_reversal", 20_000), ("write_off", -20_000)]
    # A part of 0.50, of 700 credits for 10.50.
    assert first_month(back, CREDITED) == [
        ("invoice", -70_000),
        ("invoice_reversal", 3333),
        ("write_off", -3333),
    ]
    rows = back.rows("SELECT attribution_id, failing_since FROM dunning")
    failing = {row.attribution_id: row.failing_since for row in rows}
    assert failing[FAILED] == FINALIZED
    statuses = back.rows("SELECT attribution_id, status FROM stripe_dispute ORDER BY status")
    assert [tuple(row) for row in statuses] == [(DISPUTED, "needs_response"), (WON, "won")]
    assert "block_account" in back.told(DISPUTED)
    assert [name for name in back.told(WON) if name.endswith("block_account")] == ["block_account", "unblock_account"]
    [refund] = back.rows("SELECT attribution_id, status FROM stripe_refund WHERE attribution_id = :a", a=REFUNDED)
    assert refund.status == "succeeded"
    assert [strategy(back, each) for each in (PAID, CANCELLED, DELETED)] == ["stripe", "other", "other"]
    [gone] = back.rows("SELECT stripe_customer_id FROM stripe_customer WHERE deleted_at IS NOT NULL")
    assert gone.stripe_customer_id == customers[DELETED]
    assert back.verified(BACK).clean, back.verified(BACK).describe()


@pytest.mark.holds("inbox.missed")
def test_a_second_run_changes_nothing_and_reports_nothing(back: Bench) -> None:
    fill(back, BACK)
    look(back, BACK)
    back.handle_stored(BACK)
    before = everything(back)
    again = fill(back, BACK + HOUR)
    assert (again.missed, again.stored, look(back, BACK + HOUR)) == (0, 0, 0)
    # If the whole look is done once more, each object is already in its known state.
    back.execute("UPDATE stripe_walk SET until = since + interval '10 days', cursor = '' WHERE name LIKE 'missed %'")
    look(back, BACK + HOUR)
    back.handle_stored(BACK + HOUR)
    assert everything(back) == before


@pytest.mark.holds("inbox.missed")
def test_the_gap_is_reported_once_with_its_instants(bench: Bench, rt: Runtime, broker: str) -> None:
    live_on(bench, at_work(bench))
    TestClock(rt.redis).advance(BACK)
    with capture_logs() as lines:
        answers: list[Any] = [tasks.backfill_events() for _ in range(3)]
    assert [answer["missed"] for answer in answers] == [1, 0, 0]
    assert answers[0]["looked_at"] > len(ACCOUNTS)
    (told,) = [line for line in lines if line["event"] == "stripe.events_missed"]
    since, until = (OFF - timedelta(minutes=15)).isoformat(), (BACK - timedelta(days=30, hours=-6)).isoformat()
    assert (told["log_level"], told["since"], told["until"]) == ("warning", since, until)
    (noted,) = bench.rows("SELECT details FROM audit WHERE action = 'stripe_event.missed'")
    assert noted.details == {"since": since, "until": until}


@pytest.mark.holds("inbox.missed")
def test_a_new_installation_looks_at_what_was_there_before_it(off: Bench) -> None:
    off.world.advance(BACK)
    off.execute("DELETE FROM stripe_walk")
    off.execute("DELETE FROM stripe_event")
    assert fill(off, BACK).missed == 1
    look(off, BACK)
    off.handle_stored(BACK)
    assert first_month(off, PAID) == [("invoice", -10_000)]
    assert off.verified(BACK).clean, off.verified(BACK).describe()


def test_a_new_installation_without_accounts_misses_nothing(bench: Bench) -> None:
    assert fill(bench, BACK) == Backfilled()
    assert look_at_objects(bench.transaction, bench.stripe, at=BACK).looked_at == 0


@pytest.mark.parametrize("days", [1, 29])
def test_what_stripe_still_has_is_no_gap(off: Bench, days: int) -> None:
    off.world.advance(OFF + days * DAY)
    assert fill(off, OFF + days * DAY).missed == 0


def test_a_look_that_is_cut_off_goes_on_where_it_was(back: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed_objects, "PAGE", 2)
    monkeypatch.setattr(listed_objects, "CUSTOMERS_PAGE", 2)
    fill(back, BACK)
    runs = [look_at_objects(back.transaction, back.stripe, at=BACK, pages=1)]
    while runs[-1].unfinished:
        runs.append(look_at_objects(back.transaction, back.stripe, at=BACK, pages=1))
    assert len(runs) > len(listed_objects.LISTS)
    assert sum(run.looked_at for run in runs) >= len(ACCOUNTS)
    back.handle_stored(BACK)
    assert strategy(back, DELETED) == strategy(back, CANCELLED) == "other"
    assert back.verified(BACK).clean


def test_a_look_at_an_object_that_is_gone_begins_again(back: Bench) -> None:
    fill(back, BACK)
    back.execute("UPDATE stripe_walk SET cursor = 'in_gone' WHERE name = 'missed invoices'")
    look(back, BACK)
    back.handle_stored(BACK)
    assert first_month(back, PAID) == [("invoice", -10_000)]


class Refusing(Wrapped):
    """The real gateway, except that one list fails."""

    def list_disputes(self, **_: Any) -> Any:
        raise PermanentError("no such list")


def test_a_list_that_cannot_be_read_holds_up_no_other(back: Bench) -> None:
    fill(back, BACK)
    done = look_at_objects(back.transaction, Refusing(back.stripe), at=BACK)
    assert ([str(error) for error in done.failed], done.unfinished) == (["no such list"], 0)
    back.handle_stored(BACK)
    assert strategy(back, DELETED) == "other"
    assert back.rows("SELECT status FROM stripe_dispute WHERE attribution_id = :a", a=DISPUTED) == []
    assert look(back, BACK) > 0
    back.handle_stored(BACK)
    assert len(back.rows("SELECT 1 FROM stripe_dispute WHERE attribution_id = :a", a=DISPUTED)) == 1


def test_while_stripe_is_away_the_look_stands_still(back: Bench) -> None:
    fill(back, BACK)
    with answering((500, error())) as away:
        broken = LiveGateway(secret_key="sk_test_1", meter_event_name="x", api_base=away.url)
        with pytest.raises(RetryableError):
            look_at_objects(back.transaction, broken, at=BACK)
    assert look(back, BACK) > 0


@pytest.mark.holds("inbox.clock-ahead")
@pytest.mark.parametrize("minutes", [20, 24 * 60])
def test_a_clock_of_ours_that_is_ahead_hides_no_event(bench: Bench, minutes: int) -> None:
    ahead = timedelta(minutes=minutes)
    fill(bench, BEGIN + ahead)
    for step in range(1, 4):
        now = BEGIN + step * timedelta(minutes=5)
        bench.world.advance(now - timedelta(minutes=2))
        made = bench.world.v1.customers.create({"name": str(step)})
        bench.world.advance(now)
        fill(bench, now + ahead)
        assert bench.rows("SELECT 1 FROM stripe_event WHERE object_id = :id", id=made.id), step


@pytest.mark.holds("inbox.clock-ahead")
def test_a_clock_of_ours_that_is_behind_hides_no_event(bench: Bench) -> None:
    for step in range(3):
        now = BEGIN + step * timedelta(minutes=5)
        bench.world.advance(now)
        made = bench.world.v1.customers.create({"name": str(step)})
        fill(bench, now - timedelta(minutes=20))
        assert bench.rows("SELECT 1 FROM stripe_event WHERE object_id = :id", id=made.id), step
