"""The meter reports that the database decides are the domain's: for accounts at the edges of their periods."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.factories import DAY, START, SYSTEM, team
from tests.rows import insert_rows
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.cycles import Cycle, add_months
from usage_tasks.domain.ledger import EntryKind
from usage_tasks.domain.meter_reports import (
    MeteredAccount,
    MeterReport,
    MeterReportState,
    NewReport,
    awaiting_invoice_cents,
    decide_report,
    is_superseded,
    judge_quantity,
)
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.metering.decide import Owed, list_awaiting_invoice, list_owed, report_changes
from usage_tasks.storage.metering.queue import EARLY

SECOND = timedelta(seconds=1)
PENDING, ACCEPTED, PARKED, DROPPED = MeterReportState
BESIDE = [0 * SECOND, 0 * SECOND, -SECOND, SECOND]
# Many accounts a statement, seeded by Hypothesis: it would draw them one by one for longer than the SQL takes.
RANDOMS = st.randoms(use_true_random=True)
ACCOUNTS = 60
# Of the 31st too, so that months of every length are clipped.
ANCHORS = [datetime(2027, 12, day, 9, 30, tzinfo=UTC) for day in (15, 29, 30, 31)]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """An instant at an edge of some accounts' periods, or a second beside it, and accounts with reports around it."""

    at: datetime
    as_of: datetime
    accounts: Sequence[MeteredAccount]


def random_world(rng: Random) -> World:
    anchor = rng.choice(ANCHORS)
    as_of = add_months(anchor, rng.randrange(5)) + rng.choice(BESIDE)
    at = as_of + rng.choice([0 * SECOND, SECOND])
    # Half of the accounts share the anchor whose edge the instant is at.
    anchors = [anchor] * len(ANCHORS) + ANCHORS
    return World(
        at=at, as_of=as_of, accounts=[random_account(rng, n, rng.choice(anchors), at, as_of) for n in range(ACCOUNTS)]
    )


def random_account(rng: Random, number: int, anchor: datetime, at: datetime, as_of: datetime) -> MeteredAccount:
    cycle = Cycle(anchor_at=anchor, number=rng.randrange(3))
    cents = 100 * rng.randrange(-1, 6) + rng.choice([0, 0, -1, 1, 50])
    account = MeteredAccount(
        attribution_id=team(number),
        billing_strategy=BillingStrategy.STRIPE,
        cycle=cycle,
        balance_cents=CreditCents(cents),
        reports=random_reports(rng, cycle, as_of),
    )
    odd: list[dict[str, Any]] = [
        {"billing_strategy": BillingStrategy.OTHER},
        {"subscribed": False},
        {"stripe_ended_at": as_of + rng.choice(BESIDE)},
        {"customer_parked": True},
        {"latest_invoice_at": at + rng.choice(BESIDE)},
    ]
    return replace(account, **rng.choice([{}, {}, rng.choice(odd)]))


def random_reports(rng: Random, cycle: Cycle, as_of: datetime) -> list[MeterReport]:
    edges = [as_of, cycle.started_at, cycle.ends_at, cycle.following().ends_at]
    reports = {
        rng.choice(edges) + rng.choice(BESIDE): MeterReport(
            as_of=as_of,
            quantity=rng.randrange(4),
            state=rng.choice([PENDING, PENDING, ACCEPTED, ACCEPTED, DROPPED, rng.choice([ACCEPTED, PARKED])]),
            period_starts_at=rng.choice([cycle.started_at, cycle.following().started_at, None]),
            claimed=rng.choice([False, False, True]),
            early=rng.choice([False, False, True]),
        )
        for _ in range(rng.randrange(5))
    }
    return [replace(report, as_of=moment) for moment, report in reports.items()]


def store(connection: Connection, world: World) -> None:
    accounts = world.accounts
    insert_rows(connection, "cost_center", [cost_center_row(account) for account in accounts])
    insert_rows(connection, "stripe_customer", [customer_row(account) for account in accounts])
    insert_rows(connection, "stripe_subscription", [subscription_row(*each) for each in enumerate(accounts)])
    insert_rows(
        connection, "meter_report", [report_row(account, each) for account in accounts for each in account.reports]
    )
    insert_rows(connection, "ledger_entry", [row for account in accounts for row in entry_rows(account, world.at)])


def cost_center_row(account: MeteredAccount) -> dict[str, Any]:
    return {
        "attribution_id": account.attribution_id,
        "version": 1,
        "billing_strategy": account.billing_strategy.value,
        "spending_limit": 100,
        "cycle_anchor_at": account.cycle.anchor_at,
        "cycle_number": account.cycle.number,
        "cycle_started_at": account.cycle.started_at,
        "next_billing_at": account.cycle.ends_at,
        "actor": SYSTEM,
    }


def customer_row(account: MeteredAccount) -> dict[str, Any]:
    return {
        "attribution_id": account.attribution_id,
        "currency": "usd",
        "billing_creator_user_id": "creator",
        "idempotency_key": "key",
        "parked_at": START if account.customer_parked else None,
        "parked_reason": "two subscriptions" if account.customer_parked else None,
    }


def subscription_row(number: int, account: MeteredAccount) -> dict[str, Any]:
    """An open subscription. For an account without one it has ended, or Stripe has not made it yet."""
    unmade = not account.subscribed and number % 2 == 0
    return {
        "attribution_id": account.attribution_id,
        "number": 1,
        "stripe_subscription_id": None if unmade else f"sub_{number}",
        "idempotency_key": "key",
        "price_id": "price",
        "ended_at": None if account.subscribed or unmade else START,
        "stripe_ended_at": account.stripe_ended_at,
    }


def report_row(account: MeteredAccount, report: MeterReport) -> dict[str, Any]:
    return {
        "attribution_id": account.attribution_id,
        "as_of": report.as_of,
        "identifier": f"stored:{account.attribution_id}:{report.as_of.isoformat()}",
        "quantity": report.quantity,
        "state": report.state.value,
        "accepted_at": START if report.state is ACCEPTED else None,
        "parked_at": START if report.state is PARKED else None,
        "claimed_until": START if report.claimed else None,
        "period_starts_at": report.period_starts_at,
        "error": f"{EARLY}by Stripe's clock" if report.early else other_reason(report),
    }


def other_reason(report: MeterReport) -> str | None:
    """Return another reason, or None: only the reason of an early report keeps it from being superseded."""
    return "busy" if report.quantity % 2 else None


def entry_rows(account: MeteredAccount, at: datetime) -> list[dict[str, Any]]:
    """Entries that make up the balance at an instant, one of them at that very instant, and a later one."""
    invoice = [("invoice", EntryKind.INVOICE, 0, account.latest_invoice_at)] if account.latest_invoice_at else []
    moved = [
        ("before", EntryKind.CREDIT_NOTE, account.balance_cents - 30, at - DAY),
        ("at", EntryKind.CREDIT_NOTE, 30, at),
        ("after", EntryKind.CREDIT_NOTE, 1_000, at + timedelta(microseconds=1)),
    ]
    return [
        {
            "attribution_id": account.attribution_id,
            "key": key,
            "kind": kind.value,
            "credit_cents": cents,
            "effective_at": effective_at,
            "description": "whatever moves a balance",
        }
        for key, kind, cents, effective_at in [*moved, *invoice]
    ]


def stored(connection: Connection) -> dict[tuple[str, datetime], tuple[int, str]]:
    rows = connection.execute(text("SELECT attribution_id, as_of, quantity, state FROM meter_report"))
    return {(row.attribution_id, row.as_of): (row.quantity, row.state) for row in rows}


def expected_reports(
    accounts: Sequence[MeteredAccount], added: dict[AttributionId, NewReport], *, closing: bool
) -> dict[tuple[str, datetime], tuple[int, str]]:
    expected: dict[tuple[str, datetime], tuple[int, str]] = {}
    for account in accounts:
        new = added.get(account.attribution_id)
        for report in account.reports:
            state = DROPPED if new is not None and is_superseded(report, new, closing=closing) else report.state
            expected[account.attribution_id, report.as_of] = report.quantity, state
        if new is not None:
            expected[account.attribution_id, new.as_of] = new.quantity, PENDING
    return expected


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=RANDOMS, closing=st.sampled_from([False, False, True]), only=st.sampled_from([None, None, None, 3]))
def test_the_database_adds_and_drops_the_reports_that_the_domain_does(
    connection: Connection, rng: Random, only: int | None, *, closing: bool
) -> None:
    world = random_world(rng)
    asked = world.accounts if only is None else [world.accounts[only]]
    decided = {
        account.attribution_id: decide_report(account, at=world.at, as_of=world.as_of, closing=closing)
        for account in asked
    }
    added = {account: report for account, report in decided.items() if report is not None}
    with rehearsal(connection):
        store(connection, world)
        account = None if only is None else team(only)
        count = report_changes(connection, at=world.at, as_of=world.as_of, closing=closing, only=account)
        assert stored(connection) == expected_reports(world.accounts, added, closing=closing)
        assert count == len(added)
        rows = connection.execute(text("SELECT * FROM meter_report WHERE identifier NOT LIKE 'stored:%'"))
        found = {
            row.attribution_id: NewReport(
                identifier=row.identifier,
                as_of=row.as_of,
                quantity=row.quantity,
                period_starts_at=row.period_starts_at,
            )
            for row in rows
        }
        assert found == added


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=RANDOMS)
def test_the_database_owes_and_awaits_what_the_domain_does(connection: Connection, rng: Random) -> None:
    world = random_world(rng)
    instants = [world.at if number % 2 else world.as_of for number in range(len(world.accounts))]
    with rehearsal(connection):
        store(connection, world)
        names = [account.attribution_id for account in world.accounts]
        owed = list_owed(connection, names, at=world.at)
        awaiting = list_awaiting_invoice(connection, list(zip(names, instants, strict=True)))
    for account, instant in zip(world.accounts, instants, strict=True):
        quantity = judge_quantity(account.cycle, account.balance_cents, account.reports, as_of=world.at)
        expected = None if quantity is None else Owed(ledger=quantity.ledger, told=quantity.reported)
        assert owed.get(account.attribution_id) == expected
        on_stripe = account.billing_strategy is BillingStrategy.STRIPE
        cents = awaiting_invoice_cents(account.cycle, account.reports, at=instant) if on_stripe else 0
        assert awaiting.get(account.attribution_id, 0) == cents
