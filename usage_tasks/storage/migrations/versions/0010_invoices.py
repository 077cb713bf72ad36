"""Invoices as Stripe has them, their reversals in the ledger, dunning, and subscriptions that end."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from usage_tasks.storage.migration_steps import replace_check

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

KINDS = (
    "'session', 'adjustment', 'invoice', 'reset', 'upgrade', 'credit_note', 'grant_burn', 'invoice_reversal', "
    "'write_off'"
)
UNSETTLED = "status IN ('draft', 'open', 'uncollectible')"
FAILED = "failed_at IS NOT NULL AND status IN ('open', 'uncollectible')"

# As before, with the two new kinds on their contra accounts.
KEEP_BALANCE = """
CREATE OR REPLACE FUNCTION keep_account_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account_balance AS held
        (attribution_id, used_cents, invoiced_cents, covered_cents, forgiven_cents, latest_effective_at)
    SELECT attribution_id,
           COALESCE(sum(credit_cents) FILTER (WHERE kind IN ('session', 'adjustment')), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind IN ('invoice', 'invoice_reversal')), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind IN ('reset', 'grant_burn')), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind IN ('upgrade', 'credit_note', 'write_off')), 0)::bigint,
           max(effective_at)
    FROM inserted GROUP BY attribution_id ORDER BY attribution_id
    ON CONFLICT (attribution_id) DO UPDATE SET
        used_cents = held.used_cents + EXCLUDED.used_cents,
        invoiced_cents = held.invoiced_cents + EXCLUDED.invoiced_cents,
        covered_cents = held.covered_cents + EXCLUDED.covered_cents,
        forgiven_cents = held.forgiven_cents + EXCLUDED.forgiven_cents,
        latest_effective_at = GREATEST(held.latest_effective_at, EXCLUDED.latest_effective_at);
    RETURN NULL;
END $$
"""


def _moment(name: str, *, nullable: bool = False, default_now: bool = False) -> sa.Column[object]:
    default = sa.text("clock_timestamp()") if default_now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=nullable)


def _account() -> sa.Column[str]:
    return sa.Column("attribution_id", sa.Text(collation="C"), nullable=False)


def upgrade() -> None:
    replace_check("ledger_entry", "ledger_entry_kind_check", f"kind IN ({KINDS})")  # 0019 validates it
    op.execute(KEEP_BALANCE)
    op.add_column("stripe_customer", _moment("deleted_at", nullable=True))
    op.add_column("stripe_subscription", sa.Column("status", sa.Text(), nullable=True))
    op.add_column("stripe_subscription", _moment("stripe_ended_at", nullable=True))
    op.add_column("stripe_subscription", sa.Column("last_invoice_id", sa.Text(), nullable=True))
    op.add_column("stripe_subscription", _moment("fetched_at", nullable=True))
    op.add_column("stripe_subscription", _moment("checked_at", default_now=True))
    op.create_index(
        "stripe_subscription_checked_idx",
        "stripe_subscription",
        ["checked_at"],
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.execute("UPDATE stripe_subscription SET stripe_ended_at = ended_at WHERE ended_at IS NOT NULL")
    _create_invoices()
    _create_walks()
    _create_actions()
    _create_dunning()


def _create_invoices() -> None:
    op.create_table(
        "stripe_invoice",
        _account(),
        sa.Column("stripe_invoice_id", sa.Text(collation="C"), nullable=False),
        sa.Column("stripe_subscription_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("credit_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("amount_due", sa.BigInteger(), nullable=False),
        sa.Column("amount_paid", sa.BigInteger(), nullable=False),
        sa.Column("amount_remaining", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _moment("period_start"),
        _moment("period_end"),
        _moment("created_at"),
        _moment("finalized_at", nullable=True),
        _moment("paid_at", nullable=True),
        _moment("voided_at", nullable=True),
        _moment("uncollectible_at", nullable=True),
        sa.Column("replaced_by", sa.Text(), nullable=True),
        _moment("failed_at", nullable=True),
        _moment("fetched_at"),
        _moment("checked_at", default_now=True),
        sa.CheckConstraint(
            "status IN ('draft', 'open', 'uncollectible', 'paid', 'void')", name=op.f("stripe_invoice_status_check")
        ),
        sa.CheckConstraint(
            "(status = 'draft') = (finalized_at IS NULL)", name=op.f("stripe_invoice_finalized_at_check")
        ),
        sa.PrimaryKeyConstraint("attribution_id", "stripe_invoice_id", name=op.f("stripe_invoice_pkey")),
        sa.UniqueConstraint("stripe_invoice_id", name=op.f("stripe_invoice_stripe_invoice_id_key")),
    )
    op.create_index("stripe_invoice_subscription_idx", "stripe_invoice", ["stripe_subscription_id"])
    op.create_index(
        "stripe_invoice_unsettled_idx", "stripe_invoice", ["checked_at"], postgresql_where=sa.text(UNSETTLED)
    )
    op.create_index("stripe_invoice_failed_idx", "stripe_invoice", ["attribution_id"], postgresql_where=sa.text(FAILED))


def _create_walks() -> None:
    op.create_table(
        "stripe_walk",
        sa.Column("name", sa.Text(), nullable=False),
        _moment("since", nullable=True),
        _moment("until", nullable=True),
        sa.Column("cursor", sa.Text(), nullable=True),
        _moment("failed_since", nullable=True),
        _moment("changed_at", default_now=True),
        sa.CheckConstraint("(cursor IS NULL) = (until IS NULL)", name=op.f("stripe_walk_cursor_check")),
        sa.PrimaryKeyConstraint("name", name=op.f("stripe_walk_pkey")),
    )


def _create_actions() -> None:
    op.create_table(
        "stripe_action",
        _account(),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        _moment("requested_at", default_now=True),
        _moment("claimed_until", nullable=True),
        _moment("settled_at", nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "operation IN ('finalize_invoice', 'cancel_subscription')", name=op.f("stripe_action_operation_check")
        ),
        sa.PrimaryKeyConstraint("attribution_id", "operation", "object_id", "number", name=op.f("stripe_action_pkey")),
        sa.UniqueConstraint("idempotency_key", name=op.f("stripe_action_idempotency_key_key")),
    )
    op.create_index(
        "stripe_action_open_idx",
        "stripe_action",
        ["operation", "object_id"],
        unique=True,
        postgresql_where=sa.text("settled_at IS NULL"),
    )


def _create_dunning() -> None:
    op.create_table(
        "dunning",
        _account(),
        sa.Column("state", sa.Text(), nullable=False),
        _moment("failing_since"),
        sa.Column("reminders", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _moment("changed_at"),
        sa.CheckConstraint("state IN ('grace', 'reminder', 'suspended')", name=op.f("dunning_state_check")),
        sa.PrimaryKeyConstraint("attribution_id", name=op.f("dunning_pkey")),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
