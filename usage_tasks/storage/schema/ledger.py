"""Entries, balances, grants, cost centers, allowances."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.domain.grants import LapseReason
from usage_tasks.domain.ledger import USAGE_KINDS, EntryKind
from usage_tasks.storage.rows import sql_list
from usage_tasks.storage.schema.columns import account, metadata, moment, one_of, required

ledger_entry = Table(
    "ledger_entry",
    metadata,
    account(primary_key=True),
    Column("key", Text(collation="C"), primary_key=True),
    required("kind", Text()),
    required("credit_cents", BigInteger()),
    moment("effective_at"),
    moment("posted_at", default_now=True),
    required("description", Text()),
    Column("instance_id", Uuid()),
    # The user for whom a credit note was given, if its caller named one.
    Column("user_id", Uuid()),
    # When the session began, by the facts that were posted; null in entries of versions before 0017.
    moment("session_started_at", nullable=True),
    one_of("kind", EntryKind),
    CheckConstraint(f"(kind IN ({sql_list(USAGE_KINDS)})) = (instance_id IS NOT NULL)", name="instance_id"),
    CheckConstraint("kind = 'credit_note' OR user_id IS NULL", name="user_id"),
    Index("ledger_entry_effective_idx", "attribution_id", "effective_at"),
    # Recently posted entries: entries are only appended, so a range of blocks is precise enough.
    Index("ledger_entry_posted_idx", "posted_at", postgresql_using="brin"),
)

account_balance = Table(
    "account_balance",
    metadata,
    account(primary_key=True),
    required("used_cents", BigInteger(), default="0"),
    required("invoiced_cents", BigInteger(), default="0"),
    required("covered_cents", BigInteger(), default="0"),
    required("forgiven_cents", BigInteger(), default="0"),
    Column(
        "carried_cents",
        BigInteger,
        Computed("used_cents - invoiced_cents - covered_cents - forgiven_cents", persisted=True),
    ),
    # No entry takes effect later.
    moment("latest_effective_at"),
)

# The sum of the entries of a week of UTC, which begins on Monday. No session with an entry in it started, or had an
# entry, before `reaches_back_to`; null where there is no session. A trigger of the ledger keeps it (docs/adr/0012).
account_week = Table(
    "account_week",
    metadata,
    account(primary_key=True),
    Column("starts_at", DateTime(timezone=True), primary_key=True),
    required("credit_cents", BigInteger()),
    moment("reaches_back_to", nullable=True),
)

# The terms never change; `closed_at`, set once, is the instant from which nothing is left.
credit_grant = Table(
    "credit_grant",
    metadata,
    account(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    required("key", Text()),
    required("priority", Integer()),
    required("amount_cents", BigInteger()),
    moment("effective_at"),
    moment("expires_at", nullable=True),
    Column("rollover_cap_cents", BigInteger),
    required("description", Text()),
    moment("created_at", default_now=True),
    required("actor", Text()),
    moment("closed_at", nullable=True),
    UniqueConstraint("attribution_id", "key"),
    CheckConstraint("amount_cents > 0", name="amount_cents"),
    CheckConstraint("expires_at > effective_at", name="expires_at"),
    CheckConstraint("rollover_cap_cents >= 0", name="rollover_cap_cents"),
    Index("credit_grant_expiring_idx", "expires_at", postgresql_where=text("closed_at IS NULL")),
)

grant_lapse = Table(
    "grant_lapse",
    metadata,
    account(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("lapsed_at", DateTime(timezone=True), primary_key=True),
    required("credit_cents", BigInteger()),
    required("reason", Text()),
    moment("created_at", default_now=True),
    one_of("reason", LapseReason),
    CheckConstraint("credit_cents > 0", name="credit_cents"),
    ForeignKeyConstraint(["attribution_id", "number"], ["credit_grant.attribution_id", "credit_grant.number"]),
)

cost_center = Table(
    "cost_center",
    metadata,
    account(primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    required("billing_strategy", Text()),
    required("spending_limit", BigInteger()),
    moment("cycle_anchor_at"),
    required("cycle_number", Integer()),
    moment("cycle_started_at"),
    moment("next_billing_at"),
    moment("created_at", default_now=True),
    moment("superseded_at", nullable=True),
    required("actor", Text()),
    one_of("billing_strategy", BillingStrategy),
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

# The free allowance of a user, used up: never changed and never taken back.
allowance_claim = Table(
    "allowance_claim",
    metadata,
    Column("user_id", Uuid(), primary_key=True),
    Column("email_digest", Text(collation="C"), unique=True),
    Column("attribution_id", Text(collation="C"), nullable=False, unique=True),
    moment("claimed_at"),
    moment("recorded_at", default_now=True),
    required("actor", Text()),
    CheckConstraint("email_digest ~ '^[0-9a-f]{64}$'", name="email_digest"),
)
