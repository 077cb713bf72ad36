"""The tables, as SQLAlchemy metadata; triggers and views stand in the migrations. `alembic check` holds them equal.

The account (`attribution_id`) is the sharding key: it stands first in every key that an account's data has.
Credits are stored as credit cents (bigint), prices as exact numerics of credits per minute, times as timestamptz.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.domain.grants import LapseReason
from usage_tasks.domain.ledger import USAGE_KINDS, EntryKind
from usage_tasks.storage.rows import sql_list

T = TypeVar("T")

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)


def _moment(name: str, *, nullable: bool = False, default_now: bool = False) -> Column[datetime]:
    return Column(
        name,
        DateTime(timezone=True),
        nullable=nullable,
        server_default=text("clock_timestamp()") if default_now else None,
    )


def _account(*, primary_key: bool = False) -> Column[str]:
    """The account column; collation C, so that keys sort and range by bytes."""
    return Column("attribution_id", Text(collation="C"), primary_key=primary_key, nullable=False)


def _required(name: str, kind: TypeEngine[T], *, default: str | None = None) -> Column[T]:
    return Column(name, kind, nullable=False, server_default=None if default is None else text(default))


def _one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({sql_list(values)})", name=column)


workspace_instance = Table(
    "workspace_instance",
    metadata,
    Column("instance_id", Uuid(), primary_key=True),
    _account(),
    _required("user_id", Uuid()),
    _required("workspace_id", Text()),
    _required("workspace_class", Text()),
    _moment("created_at", nullable=True),
    _moment("started_at"),
    _moment("stopping_at", nullable=True),
    _moment("stopped_at", nullable=True),
    _moment("observed_at"),
    _moment("recorded_at", default_now=True),
    # What is billed ends here; null while it runs. A draft has stopping_at but not yet stopped_at.
    Column("ended_at", DateTime(timezone=True), Computed("COALESCE(stopping_at, stopped_at)", persisted=True)),
    # Odd but honest input: it bills nothing and can be listed.
    Column(
        "stops_before_start",
        Boolean,
        Computed("COALESCE(COALESCE(stopping_at, stopped_at) < started_at, false)", persisted=True),
    ),
    # The facts' revision and the last one in the ledger: a session is open while they differ.
    _required("revision", Integer(), default="1"),
    _required("posted_revision", Integer(), default="0"),
    _required("posted_cents", BigInteger(), default="0"),
    # The latest effective time of its entries; at any later instant its entries sum to its price.
    _moment("settled_at", nullable=True),
    CheckConstraint("posted_revision BETWEEN 0 AND revision", name="posted_revision"),
    CheckConstraint("(posted_revision = 0) = (settled_at IS NULL)", name="settled_at"),
    Index("workspace_instance_open_idx", "attribution_id", postgresql_where=text("posted_revision < revision")),
    Index(
        "workspace_instance_postable_idx",
        "stopped_at",
        postgresql_where=text("stopped_at IS NOT NULL AND posted_revision < revision"),
    ),
    Index("workspace_instance_settled_idx", "attribution_id", "settled_at"),
    Index("workspace_instance_odd_idx", "started_at", postgresql_where=text("stops_before_start")),
)

ledger_entry = Table(
    "ledger_entry",
    metadata,
    _account(primary_key=True),
    Column("key", Text(collation="C"), primary_key=True),
    _required("kind", Text()),
    _required("credit_cents", BigInteger()),
    _moment("effective_at"),
    _moment("posted_at", default_now=True),
    _required("description", Text()),
    Column("instance_id", Uuid()),
    # For whom a credit note was given, where its caller said so.
    Column("user_id", Uuid()),
    _one_of("kind", EntryKind),
    CheckConstraint(f"(kind IN ({sql_list(USAGE_KINDS)})) = (instance_id IS NOT NULL)", name="instance_id"),
    CheckConstraint("kind = 'credit_note' OR user_id IS NULL", name="user_id"),
    Index("ledger_entry_effective_idx", "attribution_id", "effective_at"),
)

account_balance = Table(
    "account_balance",
    metadata,
    _account(primary_key=True),
    _required("used_cents", BigInteger(), default="0"),
    _required("invoiced_cents", BigInteger(), default="0"),
    _required("covered_cents", BigInteger(), default="0"),
    _required("forgiven_cents", BigInteger(), default="0"),
    Column(
        "carried_cents",
        BigInteger,
        Computed("used_cents - invoiced_cents - covered_cents - forgiven_cents", persisted=True),
    ),
)

# The terms never change; `closed_at`, set once, is the instant from which nothing is left.
credit_grant = Table(
    "credit_grant",
    metadata,
    _account(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    _required("key", Text()),
    _required("priority", Integer()),
    _required("amount_cents", BigInteger()),
    _moment("effective_at"),
    _moment("expires_at", nullable=True),
    Column("rollover_cap_cents", BigInteger),
    _required("description", Text()),
    _moment("created_at", default_now=True),
    _required("actor", Text()),
    _moment("closed_at", nullable=True),
    UniqueConstraint("attribution_id", "key"),
    CheckConstraint("amount_cents > 0", name="amount_cents"),
    CheckConstraint("expires_at > effective_at", name="expires_at"),
    CheckConstraint("rollover_cap_cents >= 0", name="rollover_cap_cents"),
    Index("credit_grant_expiring_idx", "expires_at", postgresql_where=text("closed_at IS NULL")),
)

grant_lapse = Table(
    "grant_lapse",
    metadata,
    _account(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("lapsed_at", DateTime(timezone=True), primary_key=True),
    _required("credit_cents", BigInteger()),
    _required("reason", Text()),
    _moment("created_at", default_now=True),
    _one_of("reason", LapseReason),
    CheckConstraint("credit_cents > 0", name="credit_cents"),
    ForeignKeyConstraint(["attribution_id", "number"], ["credit_grant.attribution_id", "credit_grant.number"]),
)

cost_center = Table(
    "cost_center",
    metadata,
    _account(primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    _required("billing_strategy", Text()),
    _required("spending_limit", BigInteger()),
    _moment("cycle_anchor_at"),
    _required("cycle_number", Integer()),
    _moment("cycle_started_at"),
    _moment("next_billing_at"),
    _moment("created_at", default_now=True),
    _moment("superseded_at", nullable=True),
    _required("actor", Text()),
    _one_of("billing_strategy", BillingStrategy),
    CheckConstraint("spending_limit >= 0", name="spending_limit"),
    CheckConstraint("cycle_started_at < next_billing_at", name="cycle"),
    Index(
        "cost_center_current_idx",
        "attribution_id",
        unique=True,
        postgresql_where=text("superseded_at IS NULL"),
    ),
    Index(
        "cost_center_due_idx",
        "next_billing_at",
        postgresql_where=text("superseded_at IS NULL AND billing_strategy = 'other'"),
    ),
)

price_version = Table(
    "price_version",
    metadata,
    Column("workspace_class", Text, primary_key=True),
    Column("effective_from", DateTime(timezone=True), primary_key=True),
    _required("credits_per_minute", Numeric()),
    _moment("created_at", default_now=True),
    _required("actor", Text()),
    CheckConstraint("credits_per_minute >= 0", name="credits_per_minute"),
)

quarantined_report = Table(
    "quarantined_report",
    metadata,
    Column("digest", Text, primary_key=True),
    _required("field", Text()),
    _required("reason", Text()),
    _required("report", Text()),
    _required("times_seen", Integer(), default="1"),
    _moment("first_seen_at", default_now=True),
    _moment("last_seen_at", default_now=True),
    _required("actor", Text()),
    Index("quarantined_report_seen_idx", "first_seen_at"),
)

stripe_customer = Table(
    "stripe_customer",
    metadata,
    _account(primary_key=True),
    Column("stripe_customer_id", Text, unique=True),
    _required("currency", Text()),
    _required("billing_creator_user_id", Text()),
    _required("idempotency_key", Text()),
    _moment("created_at", default_now=True),
)

stripe_subscription = Table(
    "stripe_subscription",
    metadata,
    _account(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("stripe_subscription_id", Text, unique=True),
    _required("idempotency_key", Text()),
    _required("price_id", Text()),
    _moment("created_at", default_now=True),
    _moment("ended_at", nullable=True),
    ForeignKeyConstraint(["attribution_id"], ["stripe_customer.attribution_id"]),
    Index(
        "stripe_subscription_open_idx",
        "attribution_id",
        unique=True,
        postgresql_where=text("ended_at IS NULL"),
    ),
)

REPORT_STATES = ("pending", "accepted", "parked")

meter_report = Table(
    "meter_report",
    metadata,
    _account(primary_key=True),
    Column("as_of", DateTime(timezone=True), primary_key=True),
    _required("identifier", Text()),
    _required("quantity", BigInteger()),
    _required("state", Text(), default="'pending'"),
    _required("attempts", Integer(), default="0"),
    _moment("next_attempt_at", default_now=True),
    _moment("claimed_until", nullable=True),
    Column("error", Text),
    _moment("created_at", default_now=True),
    _moment("accepted_at", nullable=True),
    _one_of("state", REPORT_STATES),
    CheckConstraint("quantity >= 0", name="quantity"),
    CheckConstraint("(state = 'accepted') = (accepted_at IS NOT NULL)", name="accepted_at"),
    UniqueConstraint("identifier"),
    Index("meter_report_pending_idx", "next_attempt_at", postgresql_where=text("state = 'pending'")),
    Index("meter_report_parked_idx", "attribution_id", postgresql_where=text("state = 'parked'")),
)

stripe_event = Table(
    "stripe_event",
    metadata,
    Column("event_id", Text, primary_key=True),
    _required("type", Text()),
    Column("object_id", Text),
    _moment("created_at"),
    _moment("received_at", default_now=True),
    _required("state", Text(), default="'pending'"),
    _required("attempts", Integer(), default="0"),
    _moment("next_attempt_at", default_now=True),
    _moment("claimed_until", nullable=True),
    _moment("applied_at", nullable=True),
    Column("outcome", Text),
    _one_of("state", ("pending", "applied", "parked")),
    Index("stripe_event_pending_idx", "next_attempt_at", postgresql_where=text("state = 'pending'")),
)

outbox = Table(
    "outbox",
    metadata,
    Column("outbox_id", BigInteger, Identity(always=True), primary_key=True),
    _required("key", Text()),
    _required("task", Text()),
    _required("payload", JSONB()),
    _moment("created_at", default_now=True),
    _moment("claimed_until", nullable=True),
    _moment("dispatched_at", nullable=True),
    UniqueConstraint("key"),
    Index("outbox_undispatched_idx", "outbox_id", postgresql_where=text("dispatched_at IS NULL")),
)

job_run = Table(
    "job_run",
    metadata,
    Column("job", Text, primary_key=True),
    Column("slot", DateTime(timezone=True), primary_key=True),
    _moment("started_at", default_now=True),
    _moment("finished_at", nullable=True),
    _required("attempts", Integer(), default="1"),
    Column("outcome", Text),
    Column("summary", JSONB),
    Index("job_run_started_idx", "job", "started_at"),
)

audit = Table(
    "audit",
    metadata,
    Column("audit_id", BigInteger, Identity(always=True), primary_key=True),
    _moment("recorded_at", default_now=True),
    _moment("at"),
    _required("actor", Text()),
    _required("action", Text()),
    _account(),
    _required("details", JSONB()),
    Index("audit_account_idx", "attribution_id", "audit_id"),
)
