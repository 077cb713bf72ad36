"""The ledger and everything around it."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "account_balance",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("used_cents", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("invoiced_cents", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("covered_cents", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("forgiven_cents", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "carried_cents",
            sa.BigInteger(),
            sa.Computed("used_cents - invoiced_cents - covered_cents - forgiven_cents", persisted=True),
            nullable=True,
        ),
        sa.PrimaryKeyConstraint("attribution_id", name=op.f("account_balance_pkey")),
    )
    op.create_table(
        "audit",
        sa.Column("audit_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("audit_id", name=op.f("audit_pkey")),
    )
    op.create_index("audit_account_idx", "audit", ["attribution_id", "audit_id"], unique=False)
    op.create_table(
        "cost_center",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("billing_strategy", sa.Text(), nullable=False),
        sa.Column("spending_limit", sa.BigInteger(), nullable=False),
        sa.Column("cycle_anchor_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cycle_number", sa.Integer(), nullable=False),
        sa.Column("cycle_started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_billing_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.CheckConstraint("billing_strategy IN ('stripe', 'other')", name=op.f("cost_center_billing_strategy_check")),
        sa.CheckConstraint("cycle_started_at < next_billing_at", name=op.f("cost_center_cycle_check")),
        sa.CheckConstraint("spending_limit >= 0", name=op.f("cost_center_spending_limit_check")),
        sa.PrimaryKeyConstraint("attribution_id", "version", name=op.f("cost_center_pkey")),
    )
    op.create_index(
        "cost_center_current_idx",
        "cost_center",
        ["attribution_id"],
        unique=True,
        postgresql_where=sa.text("superseded_at IS NULL"),
    )
    op.create_index(
        "cost_center_due_idx",
        "cost_center",
        ["next_billing_at"],
        unique=False,
        postgresql_where=sa.text("superseded_at IS NULL AND billing_strategy = 'other'"),
    )
    op.create_table(
        "job_run",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("slot", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("summary", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("job", "slot", name=op.f("job_run_pkey")),
    )
    op.create_index("job_run_started_idx", "job_run", ["job", "started_at"], unique=False)
    op.create_table(
        "ledger_entry",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("credit_cents", sa.BigInteger(), nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("posted_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "(kind IN ('session', 'adjustment')) = (instance_id IS NOT NULL)",
            name=op.f("ledger_entry_instance_id_check"),
        ),
        sa.CheckConstraint(
            "kind IN ('session', 'adjustment', 'invoice', 'reset', 'upgrade')", name=op.f("ledger_entry_kind_check")
        ),
        sa.PrimaryKeyConstraint("attribution_id", "key", name=op.f("ledger_entry_pkey")),
    )
    op.create_index("ledger_entry_effective_idx", "ledger_entry", ["attribution_id", "effective_at"], unique=False)
    op.create_table(
        "meter_report",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "next_attempt_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'accepted') = (accepted_at IS NOT NULL)", name=op.f("meter_report_accepted_at_check")
        ),
        sa.CheckConstraint("state IN ('pending', 'accepted', 'parked')", name=op.f("meter_report_state_check")),
        sa.CheckConstraint("quantity >= 0", name=op.f("meter_report_quantity_check")),
        sa.PrimaryKeyConstraint("attribution_id", "as_of", name=op.f("meter_report_pkey")),
        sa.UniqueConstraint("identifier", name=op.f("meter_report_identifier_key")),
    )
    op.create_index(
        "meter_report_parked_idx",
        "meter_report",
        ["attribution_id"],
        unique=False,
        postgresql_where=sa.text("state = 'parked'"),
    )
    op.create_index(
        "meter_report_pending_idx",
        "meter_report",
        ["next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "outbox",
        sa.Column("outbox_id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("outbox_id", name=op.f("outbox_pkey")),
        sa.UniqueConstraint("key", name=op.f("outbox_key_key")),
    )
    op.create_index(
        "outbox_undispatched_idx",
        "outbox",
        ["outbox_id"],
        unique=False,
        postgresql_where=sa.text("dispatched_at IS NULL"),
    )
    op.create_table(
        "price_version",
        sa.Column("workspace_class", sa.Text(), nullable=False),
        sa.Column("effective_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("credits_per_minute", sa.Numeric(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.CheckConstraint("credits_per_minute >= 0", name=op.f("price_version_credits_per_minute_check")),
        sa.PrimaryKeyConstraint("workspace_class", "effective_from", name=op.f("price_version_pkey")),
    )
    op.create_table(
        "quarantined_report",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.Column("times_seen", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "first_seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "last_seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("quarantined_report_pkey")),
    )
    op.create_index("quarantined_report_seen_idx", "quarantined_report", ["first_seen_at"], unique=False)
    op.create_table(
        "stripe_customer",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("stripe_customer_id", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("billing_creator_user_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("attribution_id", name=op.f("stripe_customer_pkey")),
        sa.UniqueConstraint("stripe_customer_id", name=op.f("stripe_customer_stripe_customer_id_key")),
    )
    op.create_table(
        "stripe_event",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "received_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("state", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "next_attempt_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("applied_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('pending', 'applied', 'parked')", name=op.f("stripe_event_state_check")),
        sa.PrimaryKeyConstraint("event_id", name=op.f("stripe_event_pkey")),
    )
    op.create_index(
        "stripe_event_pending_idx",
        "stripe_event",
        ["next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "workspace_instance",
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("workspace_class", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stopping_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            sa.Computed("COALESCE(stopping_at, stopped_at)", persisted=True),
            nullable=True,
        ),
        sa.Column(
            "stops_before_start",
            sa.Boolean(),
            sa.Computed("COALESCE(COALESCE(stopping_at, stopped_at) < started_at, false)", persisted=True),
            nullable=True,
        ),
        sa.Column("revision", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("posted_revision", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("posted_cents", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(posted_revision = 0) = (settled_at IS NULL)", name=op.f("workspace_instance_settled_at_check")
        ),
        sa.CheckConstraint(
            "posted_revision BETWEEN 0 AND revision", name=op.f("workspace_instance_posted_revision_check")
        ),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("workspace_instance_pkey")),
    )
    op.create_index(
        "workspace_instance_odd_idx",
        "workspace_instance",
        ["started_at"],
        unique=False,
        postgresql_where=sa.text("stops_before_start"),
    )
    op.create_index(
        "workspace_instance_open_idx",
        "workspace_instance",
        ["attribution_id"],
        unique=False,
        postgresql_where=sa.text("posted_revision < revision"),
    )
    op.create_index(
        "workspace_instance_postable_idx",
        "workspace_instance",
        ["stopped_at"],
        unique=False,
        postgresql_where=sa.text("stopped_at IS NOT NULL AND posted_revision < revision"),
    )
    op.create_table(
        "stripe_subscription",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stripe_subscription_id", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("price_id", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["attribution_id"], ["stripe_customer.attribution_id"], name=op.f("stripe_subscription_attribution_id_fkey")
        ),
        sa.PrimaryKeyConstraint("attribution_id", "number", name=op.f("stripe_subscription_pkey")),
        sa.UniqueConstraint("stripe_subscription_id", name=op.f("stripe_subscription_stripe_subscription_id_key")),
    )
    op.create_index(
        "stripe_subscription_open_idx",
        "stripe_subscription",
        ["attribution_id"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
