"""The tables, as SQLAlchemy metadata; triggers and views stand in the migrations. `alembic check` holds them equal.

The account (`attribution_id`) is the sharding key: it stands first in every key that an account's data has.
Credits are stored as credit cents (bigint), prices as exact numerics of credits per minute, times as timestamptz.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

from sqlalchemy import (
    ARRAY,
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

from usage_tasks.domain.access import TeamRole
from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.domain.disputes import DisputeStatus
from usage_tasks.domain.dunning import DunningState
from usage_tasks.domain.grants import LapseReason
from usage_tasks.domain.ledger import USAGE_KINDS, EntryKind
from usage_tasks.domain.limits import Crossing
from usage_tasks.domain.payments import InvoiceStatus, StripeOperation
from usage_tasks.domain.sessions import CapReason
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


_INFERRED_STOP = (
    "CASE WHEN stopped_at IS NULL AND missed_at > last_seen_at "
    "THEN last_seen_at ELSE NULL::timestamp with time zone END"
)

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
    # Where it runs, by the latest observation that says so; its latest proof of life; the latest complete snapshot of
    # its source. Each merges by its maximum (docs/adr/0008).
    Column("source", Text),
    _moment("source_seen_at", nullable=True),
    _moment("last_seen_at", nullable=True),
    _moment("missed_at", nullable=True),
    # A zombie accrues no further than this. Each reason can be released once and for all.
    _moment("capped_at", nullable=True),
    Column("cap_reason", Text),
    _required("heartbeat_released", Boolean(), default="false"),
    _required("lifetime_released", Boolean(), default="false"),
    Column("inferred_stopped_at", DateTime(timezone=True), Computed(_INFERRED_STOP, persisted=True)),
    # From here on it is final: a reported stop, else an inferred one.
    Column("final_at", DateTime(timezone=True), Computed(f"COALESCE(stopped_at, {_INFERRED_STOP})", persisted=True)),
    # What is billed ends here; null while it runs. A draft has stopping_at but not yet stopped_at.
    Column(
        "ended_at",
        DateTime(timezone=True),
        Computed(f"COALESCE(stopping_at, stopped_at, LEAST({_INFERRED_STOP}, capped_at))", persisted=True),
    ),
    # Odd but honest input: it bills nothing and can be listed.
    Column(
        "stops_before_start",
        Boolean,
        Computed("COALESCE(COALESCE(stopping_at, stopped_at) < started_at, false)", persisted=True),
    ),
    CheckConstraint("stopped_at IS NOT NULL OR last_seen_at IS NOT NULL", name="last_seen_at"),
    CheckConstraint("(source IS NULL) = (source_seen_at IS NULL)", name="source"),
    CheckConstraint("(capped_at IS NULL) = (cap_reason IS NULL)", name="capped_at"),
    CheckConstraint("capped_at IS NULL OR COALESCE(stopping_at, stopped_at) IS NULL", name="cap_of_running"),
    _one_of("cap_reason", CapReason),
    Index("workspace_instance_odd_idx", "started_at", postgresql_where=text("stops_before_start")),
    Index("workspace_instance_source_idx", "source", "last_seen_at", postgresql_where=text("stopped_at IS NULL")),
    Index(
        "workspace_instance_silent_idx",
        "last_seen_at",
        postgresql_where=text(
            "final_at IS NULL AND stopping_at IS NULL AND capped_at IS NULL AND NOT heartbeat_released"
        ),
    ),
    Index("workspace_instance_capped_idx", "capped_at", postgresql_where=text("capped_at IS NOT NULL")),
)

# A session whose latest facts are not in the ledger: what runs, what stopped since the last tick, what was corrected.
# Triggers of workspace_instance keep it; posting deletes from it (docs/adr/0012).
open_session = Table(
    "open_session",
    metadata,
    _account(primary_key=True),
    Column("instance_id", Uuid(), primary_key=True),
    _required("workspace_class", Text()),
    _moment("started_at"),
    _moment("ended_at", nullable=True),
    _moment("final_at", nullable=True),
    # The number of the entry to come; what its earlier entries come to, and the latest effective time of those: at
    # any later instant they sum to the price that was posted.
    _required("revision", Integer(), default="1"),
    _required("posted_cents", BigInteger(), default="0"),
    _moment("settled_at", nullable=True),
    _moment("opened_at", default_now=True),
    CheckConstraint("(revision = 1) = (settled_at IS NULL)", name="settled_at"),
    Index("open_session_final_idx", "final_at", postgresql_where=text("final_at IS NOT NULL")),
)

source_snapshot = Table(
    "source_snapshot",
    metadata,
    Column("source", Text(collation="C"), primary_key=True),
    # Null for a source that was only named in reports so far.
    _moment("taken_at", nullable=True),
    _moment("recorded_at", default_now=True),
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
    # What was posted lately: entries only ever come at the end, so that a range of blocks says enough.
    Index("ledger_entry_posted_idx", "posted_at", postgresql_using="brin"),
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
    # No entry takes effect later.
    _moment("latest_effective_at"),
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

# The directory: each row as its latest report told it (docs/adr/0013). Of an e-mail only a keyed digest is kept.
directory_user = Table(
    "directory_user",
    metadata,
    Column("user_id", Uuid(), primary_key=True),
    Column("email_digest", Text(collation="C")),
    _required("administrator", Boolean()),
    _required("deleted", Boolean()),
    _moment("observed_at"),
    _moment("recorded_at", default_now=True),
    _required("actor", Text()),
    CheckConstraint("NOT deleted OR email_digest IS NULL", name="deleted"),
    CheckConstraint("email_digest ~ '^[0-9a-f]{64}$'", name="email_digest"),
    Index("directory_user_email_idx", "email_digest", postgresql_where=text("email_digest IS NOT NULL")),
)

directory_team = Table(
    "directory_team",
    metadata,
    Column("team_id", Uuid(), primary_key=True),
    Column("creator_user_id", Uuid()),
    _required("digest", Text(collation="C")),  # of the report: which of two of the same instant holds
    _moment("observed_at"),
    _moment("recorded_at", default_now=True),
    _required("actor", Text()),
)

directory_member = Table(
    "directory_member",
    metadata,
    Column("team_id", Uuid(), primary_key=True),
    Column("user_id", Uuid(), primary_key=True),
    _required("role", Text()),
    _one_of("role", TeamRole),
    ForeignKeyConstraint(["team_id"], ["directory_team.team_id"]),
)

# The free allowance of a user, used up: never changed and never taken back.
allowance_claim = Table(
    "allowance_claim",
    metadata,
    Column("user_id", Uuid(), primary_key=True),
    Column("email_digest", Text(collation="C"), unique=True),
    Column("attribution_id", Text(collation="C"), nullable=False, unique=True),
    _moment("claimed_at"),
    _moment("recorded_at", default_now=True),
    _required("actor", Text()),
    CheckConstraint("email_digest ~ '^[0-9a-f]{64}$'", name="email_digest"),
)

PRICE_ORIGINS = ("configuration", "operator")

price_version = Table(
    "price_version",
    metadata,
    Column("workspace_class", Text, primary_key=True),
    Column("effective_from", DateTime(timezone=True), primary_key=True),
    _required("credits_per_minute", Numeric()),
    _moment("created_at", default_now=True),
    _required("actor", Text()),
    # Of the version in force at a session's start: the least that it costs, and the steps that its time is charged in.
    _required("minimum_cents", BigInteger(), default="0"),
    _required("rounding_seconds", Integer(), default="1"),
    # The file publishes what it changed since it last published: what came by hand is told apart.
    _required("origin", Text(), default="'configuration'"),
    CheckConstraint("credits_per_minute >= 0", name="credits_per_minute"),
    CheckConstraint("minimum_cents >= 0", name="minimum_cents"),
    CheckConstraint("rounding_seconds >= 1", name="rounding_seconds"),
    _one_of("origin", PRICE_ORIGINS),
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
    # The latest instant as of which it was sent, and the source whose snapshot it was in.
    _moment("sent_at"),
    Column("snapshot_source", Text),
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
    _moment("deleted_at", nullable=True),
    # When its subscriptions were last looked at; why no quantity can bill them, and since when that is known.
    _moment("looked_at", nullable=True),
    _moment("parked_at", nullable=True),
    Column("parked_reason", Text),
    CheckConstraint("(parked_at IS NULL) = (parked_reason IS NULL)", name="parked"),
    Index("stripe_customer_parked_idx", "attribution_id", postgresql_where=text("parked_at IS NOT NULL")),
)

stripe_subscription = Table(
    "stripe_subscription",
    metadata,
    _account(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("stripe_subscription_id", Text, unique=True),
    _required("idempotency_key", Text()),
    _required("price_id", Text()),
    # What the call was made with, and is made with again after a crash; null until it is about to be made.
    Column("automatic_tax", Boolean),
    _moment("created_at", default_now=True),
    # Since when it bills nothing more: Stripe has ended it, and its last invoice is booked.
    _moment("ended_at", nullable=True),
    # As Stripe had it when it was last fetched; between the two ends its last invoice is waited for.
    Column("status", Text),
    _moment("stripe_ended_at", nullable=True),
    Column("last_invoice_id", Text),
    _moment("fetched_at", nullable=True),
    _moment("checked_at", default_now=True),
    ForeignKeyConstraint(["attribution_id"], ["stripe_customer.attribution_id"]),
    Index(
        "stripe_subscription_open_idx",
        "attribution_id",
        unique=True,
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("stripe_subscription_checked_idx", "checked_at", postgresql_where=text("ended_at IS NULL")),
)

# Every invoice of our subscriptions, at the furthest that it was ever seen.
stripe_invoice = Table(
    "stripe_invoice",
    metadata,
    _account(primary_key=True),
    Column("stripe_invoice_id", Text(collation="C"), primary_key=True),
    _required("stripe_subscription_id", Text()),
    _required("status", Text()),
    # What it bills of our prices; fixed once it is final.
    _required("credit_cents", BigInteger()),
    # In minor units of the currency.
    _required("currency", Text()),
    _required("total", BigInteger()),
    _required("amount_due", BigInteger()),
    _required("amount_paid", BigInteger()),
    _required("amount_remaining", BigInteger()),
    _required("attempts", Integer()),
    _moment("period_start"),
    _moment("period_end"),
    _moment("created_at"),
    _moment("finalized_at", nullable=True),
    _moment("paid_at", nullable=True),
    _moment("voided_at", nullable=True),
    _moment("uncollectible_at", nullable=True),
    Column("replaced_by", Text),
    # The first time that paying it failed, as far as events told.
    _moment("failed_at", nullable=True),
    # What was fetched before this stands; what is fetched again is due in this order.
    _moment("fetched_at"),
    _moment("checked_at", default_now=True),
    _one_of("status", InvoiceStatus),
    CheckConstraint("(status = 'draft') = (finalized_at IS NULL)", name="finalized_at"),
    UniqueConstraint("stripe_invoice_id"),
    Index("stripe_invoice_subscription_idx", "stripe_subscription_id"),
    Index(
        "stripe_invoice_unsettled_idx",
        "checked_at",
        postgresql_where=text("status IN ('draft', 'open', 'uncollectible')"),
    ),
    Index(
        "stripe_invoice_failed_idx",
        "attribution_id",
        postgresql_where=text("failed_at IS NOT NULL AND status IN ('open', 'uncollectible')"),
    ),
)

# How far a list of Stripe's was walked: everything created before `since` is known; a walk that is not at its end
# goes on after `cursor`, and what failed in it keeps the next one from beginning later.
stripe_walk = Table(
    "stripe_walk",
    metadata,
    Column("name", Text, primary_key=True),
    _moment("since", nullable=True),
    _moment("until", nullable=True),
    Column("cursor", Text),
    _moment("failed_since", nullable=True),
    _moment("changed_at", default_now=True),
    CheckConstraint("(cursor IS NULL) = (until IS NULL)", name="cursor"),
)

# What an operator asked of Stripe: a row before the call, with its idempotency key, settled after it.
stripe_action = Table(
    "stripe_action",
    metadata,
    _account(primary_key=True),
    Column("operation", Text, primary_key=True),
    Column("object_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    _required("idempotency_key", Text()),
    _required("actor", Text()),
    _moment("requested_at", default_now=True),
    _moment("claimed_until", nullable=True),
    _moment("settled_at", nullable=True),
    # Null while open and once done; why Stripe refused it.
    Column("error", Text),
    _one_of("operation", StripeOperation),
    UniqueConstraint("idempotency_key"),
    Index(
        "stripe_action_open_idx",
        "operation",
        "object_id",
        unique=True,
        postgresql_where=text("settled_at IS NULL"),
    ),
)

# Accounts with an invoice whose payment failed; one that has none has no row.
dunning = Table(
    "dunning",
    metadata,
    _account(primary_key=True),
    _required("state", Text()),
    _moment("failing_since"),
    _required("reminders", Integer(), default="0"),
    _moment("changed_at"),
    _one_of("state", DunningState),
)

# A row before the call; one that is not released is found by a sweep, whatever became of the call.
payment_hold = Table(
    "payment_hold",
    metadata,
    _account(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("stripe_payment_intent_id", Text, unique=True),
    _required("idempotency_key", Text()),
    _required("currency", Text()),
    _moment("created_at", default_now=True),
    _moment("release_at"),
    _moment("claimed_until", nullable=True),
    # When the card was seen to be good for it, and its payment method had become the customer's default.
    _moment("confirmed_at", nullable=True),
    _moment("released_at", nullable=True),
    ForeignKeyConstraint(["attribution_id"], ["stripe_customer.attribution_id"]),
    Index(
        "payment_hold_open_idx",
        "attribution_id",
        unique=True,
        postgresql_where=text("released_at IS NULL"),
    ),
    Index("payment_hold_due_idx", "release_at", postgresql_where=text("released_at IS NULL")),
)

stripe_dispute = Table(
    "stripe_dispute",
    metadata,
    _account(primary_key=True),
    Column("stripe_dispute_id", Text(collation="C"), primary_key=True, unique=True),
    _required("status", Text()),
    _required("reason", Text()),
    _required("amount", BigInteger()),
    _required("currency", Text()),
    _moment("created_at"),
    _moment("changed_at", default_now=True),
    # Who was responsible when it began to block; kept when it blocks no more.
    _required("blocked_user_ids", ARRAY(Uuid()), default="'{}'"),
    # The platform was told to find the owners itself, for nobody had said who they are.
    _required("blocked_account", Boolean(), default="false"),
    _one_of("status", DisputeStatus),
)

stripe_refund = Table(
    "stripe_refund",
    metadata,
    _account(primary_key=True),
    Column("stripe_refund_id", Text(collation="C"), primary_key=True, unique=True),
    _required("status", Text()),
    _required("amount", BigInteger()),
    _required("currency", Text()),
    Column("stripe_invoice_id", Text),
    _moment("created_at"),
    _moment("changed_at", default_now=True),
    CheckConstraint("amount >= 0", name="amount"),
)

REPORT_STATES = ("pending", "accepted", "parked", "dropped")

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
    _moment("parked_at", nullable=True),
    # Under how many identifiers it was sent before this one.
    _required("resends", Integer(), default="0"),
    # Since when Stripe is suspected not to have counted what it took.
    _moment("doubted_at", nullable=True),
    # The billing period it is told to; of one period only the last report matters. Null for old ones.
    _moment("period_starts_at", nullable=True),
    _one_of("state", REPORT_STATES),
    CheckConstraint("quantity >= 0", name="quantity"),
    CheckConstraint("(state = 'accepted') = (accepted_at IS NOT NULL)", name="accepted_at"),
    CheckConstraint("(state = 'parked') = (parked_at IS NOT NULL)", name="parked_at"),
    UniqueConstraint("identifier"),
    Index("meter_report_pending_idx", "next_attempt_at", postgresql_where=text("state = 'pending'")),
    Index("meter_report_parked_idx", "attribution_id", postgresql_where=text("state = 'parked'")),
    Index("meter_report_claimed_idx", "attribution_id", postgresql_where=text("claimed_until IS NOT NULL")),
    Index("meter_report_open_idx", "attribution_id", "as_of", postgresql_where=text("state IN ('pending', 'parked')")),
    Index("meter_report_doubted_idx", "attribution_id", postgresql_where=text("doubted_at IS NOT NULL")),
    # What Stripe took in a span of real time, of which it complains later.
    Index("meter_report_accepted_idx", "accepted_at", postgresql_using="brin"),
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
    _required("source", Text(), default="'webhook'"),
    _one_of("state", ("pending", "applied", "parked", "dropped")),
    _one_of("source", ("webhook", "backfill")),
    Index("stripe_event_pending_idx", "next_attempt_at", postgresql_where=text("state = 'pending'")),
    # What an operator looks at, and another event for the same fact.
    Index("stripe_event_set_aside_idx", "created_at", "event_id", postgresql_where=text("state = 'parked'")),
    Index("stripe_event_fact_idx", "object_id", "type", "created_at"),
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

limit_thresholds = Table(
    "limit_thresholds",
    metadata,
    _account(primary_key=True),
    # Percent of the spending limit, rising; an account without a row has the installation's.
    _required("thresholds", ARRAY(Integer())),
    _moment("changed_at", default_now=True),
    _required("actor", Text()),
    CheckConstraint(
        "array_position(thresholds, NULL) IS NULL AND 1 <= ALL (thresholds) AND 1000 >= ALL (thresholds)",
        name="thresholds",
    ),
    CheckConstraint("cardinality(thresholds) <= 10", name="count"),
)

# Once a cycle, a limit and a level: the announcement's own memory, which outlives the outbox.
limit_crossing = Table(
    "limit_crossing",
    metadata,
    _account(primary_key=True),
    Column("cycle_started_at", DateTime(timezone=True), primary_key=True),
    Column("spending_limit", BigInteger, primary_key=True, autoincrement=False),
    Column("crossing", Text, primary_key=True),
    Column("level_cents", BigInteger, primary_key=True, autoincrement=False),
    Column("percent", Integer),
    _required("balance_cents", BigInteger()),
    _moment("at"),
    _moment("recorded_at", default_now=True),
    _one_of("crossing", Crossing),
    CheckConstraint("balance_cents >= level_cents", name="level"),
)

job_epoch = Table(
    "job_epoch",
    metadata,
    Column("job", Text, primary_key=True),
    _required("epoch", BigInteger()),
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
    Column("attribution_id", Text(collation="C")),  # null where a change concerns no single account
    _required("details", JSONB()),
    Index("audit_account_idx", "attribution_id", "audit_id"),
)
