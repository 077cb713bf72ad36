"""Values for tests; each test states only the fields that it is about."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

from sqlalchemy import Connection, text

from usage_tasks.domain.accounts import Account, Actor, AttributionId, parse_attribution
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.grants import GrantTerms
from usage_tasks.domain.payments import Amounts, Invoice, InvoiceStatus, StripeCustomerId, StripeInvoiceId
from usage_tasks.domain.prices import State
from usage_tasks.domain.rating import PriceVersion
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.domain.timelines import Segment
from usage_tasks.services.ledger.grant_credits import grant_credits
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.sessions.record import RecordedBatch, record_reports
from usage_tasks.services.sessions.snapshot import Healed, Snapshot, report_running

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
SYSTEM: Final = Actor("service:tests")
LIMITS: Final = SpendingLimits(for_teams=500, for_users=100, min_for_users_on_stripe=0)

QUIET_TICK: Final = {
    "expiries": 0,
    "zombies": 0,
    "zombies_lifted": 0,
    "entries": 0,
    "credit_cents": 0,
    "thresholds_reached": 0,
    "limits_reached": 0,
    "hard_limits_reached": 0,
    "snapshot": "skipped",
    "snapshots_written": 0,
}
"""The result of the ledger job for an explicit instant, when it had nothing to do."""

_NAMESPACE = UUID("5c1d2a52-6c86-4f6e-9f0e-0b8a7cf3d001")
_numbers = itertools.count(1)


def make_id(name: object) -> UUID:
    """A UUID that is the same for the same name."""
    return uuid5(_NAMESPACE, str(name))


def team(name: object = "team") -> AttributionId:
    """A team's account."""
    return AttributionId(f"team:{make_id(name)}")


def user(name: object = "user") -> AttributionId:
    """An individual's account."""
    return AttributionId(f"user:{make_id(name)}")


def session_row(**fields: Any) -> dict[str, Any]:
    """One report in its wire form: JSON, by default of a running session of class small."""
    row = {
        "instance_id": str(make_id(f"instance {next(_numbers)}")),
        "workspace_id": "ws-1",
        "user_id": str(make_id("owner")),
        "attribution_id": team(),
        "workspace_class": "small",
        "started_at": START,
    }
    row |= fields
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}


def session_report(**fields: Any) -> SessionReport:
    """One report as services take it, by default of a running session of class small."""
    values: dict[str, Any] = {
        "index": 0,
        "instance_id": make_id(f"instance {next(_numbers)}"),
        "workspace_id": "ws-1",
        "user_id": make_id("owner"),
        "attribution_id": team(),
        "workspace_class": "small",
        "created_at": None,
        "started_at": START,
        "stopping_at": None,
        "stopped_at": None,
        "observed_at": START,
    }
    return SessionReport(**(values | fields))


def segment(
    begins_at: datetime, workspace_class: str, state: State = State.RUNNING, *, observed_at: datetime = START
) -> Segment:
    """A class and a state of a session from an instant on."""
    return Segment(begins_at=begins_at, observed_at=observed_at, workspace_class=workspace_class, state=state)


def as_sent(report: SessionReport) -> dict[str, Any]:
    """A report in its wire form."""
    written = set(SessionReport.__slots__) - {"index", "segments", "names", "present"}
    row: dict[str, Any] = {name: getattr(report, name) for name in sorted(written)}
    row |= {name: str(row[name]) for name in ("instance_id", "user_id")}
    row["segments"] = [
        {"from": each.begins_at.isoformat(), "workspace_class": each.workspace_class, "state": each.state}
        for each in report.segments
    ]
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}


def stopped_report(duration: timedelta = timedelta(minutes=10), **fields: Any) -> SessionReport:
    """One report of a session that ran for a while and stopped."""
    started_at = fields.pop("started_at", START)
    stopped_at = started_at + duration
    return session_report(**({"started_at": started_at, "stopped_at": stopped_at, "observed_at": stopped_at} | fields))


def account_of(attribution_id: AttributionId) -> Account:
    """An account, taken apart."""
    return parse_attribution(attribution_id)


def record(connection: Connection, *reports: SessionReport, at: datetime = START) -> RecordedBatch:
    """Record well-formed reports as one batch."""
    batch = [replace(report, index=index) for index, report in enumerate(reports)]
    raw = [as_sent(report) for report in batch]
    return record_reports(connection, batch, [], raw=raw, limits=LIMITS, at=at, actor=SYSTEM)


def add_version(connection: Connection, workspace_class: str, version: PriceVersion) -> None:
    """Add a price unchecked: a class's first version need not hold from the beginning of time."""
    connection.execute(
        text(
            "INSERT INTO price_version "
            "(workspace_class, effective_from, credits_per_minute, minimum_cents, rounding_seconds, actor) "
            "VALUES (:workspace_class, :effective_from, :credits_per_minute, :minimum_cents, :rounding_seconds, :actor)"
        ),
        {
            "workspace_class": workspace_class,
            "effective_from": version.effective_from,
            "credits_per_minute": version.credits_per_minute,
            "minimum_cents": version.rule.minimum_cents,
            "rounding_seconds": version.rule.rounding_seconds,
            "actor": SYSTEM,
        },
    )


def used(connection: Connection, attribution_id: AttributionId, credit_cents: int, *, at: datetime) -> None:
    """Let an account use credit cents, posted, in a session that ends at an instant. Class xlarge: 1 a minute."""
    record(connection, used_report(attribution_id, credit_cents, at=at), at=at)
    post_batch(connection, at=at)


def used_report(attribution_id: AttributionId, credit_cents: int, *, at: datetime) -> SessionReport:
    """One report of a session that cost `credit_cents`, in tens, and ended at an instant."""
    duration = timedelta(seconds=credit_cents * 60 // 100)
    return stopped_report(duration, started_at=at - duration, attribution_id=attribution_id, workspace_class="xlarge")


def call(task: Any, **arguments: Any) -> Any:
    """Call a task with arguments in their wire form: JSON values, which differ from the task's types."""
    return task(**arguments)


def see(connection: Connection, source: str, taken_at: datetime, *reports: SessionReport) -> Healed:
    """Record a snapshot of well-formed rows."""
    rows = [replace(report, index=index, source=source) for index, report in enumerate(reports)]
    raw = [{"instance_id": str(row.instance_id), "row": str(row)} for row in rows]
    snapshot = Snapshot(source=source, taken_at=taken_at, reports=rows, malformed=[], raw=raw)
    return report_running(connection, snapshot, limits=LIMITS, actor=SYSTEM)


def give(connection: Connection, credit_cents: int, *, at: datetime = START, **terms: Any) -> int:
    """Grant an account credit cents, under a key of its own; return the grant's number."""
    values: dict[str, Any] = {
        "attribution_id": team(),
        "key": f"grant {next(_numbers)}",
        "priority": 50,
        "effective_at": at,
        "expires_at": None,
        "rollover_cap_cents": None,
        "description": "For this test",
    }
    granted = GrantTerms(amount_cents=CreditCents(credit_cents), **(values | terms))
    held = grant_credits(connection, granted, effective_at_given=True, limits=LIMITS, at=at, actor=SYSTEM)
    return held.number


def stripe_invoice(**fields: Any) -> Invoice:
    """An open invoice over 0 that belongs to no account."""
    defaults: dict[str, Any] = {
        "invoice_id": StripeInvoiceId("in_1"),
        "customer_id": StripeCustomerId("cus_1"),
        "subscription_id": None,
        "status": InvoiceStatus.OPEN,
        "created_at": START,
        "period_start": START,
        "period_end": START,
        "finalized_at": START,
        "amounts": Amounts(currency="usd", total=0, due=0, paid=0, remaining=0),
        "attempts": 0,
        "lines": (),
        "fetched_at": START,
    }
    transitions = dict.fromkeys(("paid_at", "voided_at", "uncollectible_at", "replaced_by"))
    return Invoice(**(defaults | transitions | fields))
