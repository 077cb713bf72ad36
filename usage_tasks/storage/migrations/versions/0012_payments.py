"""Holds on cards, disputes and whom they block, refunds; whether a subscription was asked to tell tax."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from usage_tasks.storage.migration_steps import replace_check

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

STATUSES = (
    "'warning_needs_response', 'warning_under_review', 'warning_closed', 'needs_response', 'under_review', "
    "'prevented', 'won', 'lost'"
)

KINDS = (
    "'session', 'adjustment', 'invoice', 'reset', 'upgrade', 'credit_note', 'grant_burn', 'invoice_reversal', "
    "'write_off'"
)

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
    # The kinds of reversals: the same as those of voided invoices, whichever of the two migrations comes first.
    replace_check("ledger_entry", "ledger_entry_kind_check", f"kind IN ({KINDS})")  # 0019 validates it
    op.execute(KEEP_BALANCE)
    op.add_column("stripe_subscription", sa.Column("automatic_tax", sa.Boolean(), nullable=True))
    _create_holds()
    _create_disputes()
    op.create_table(
        "stripe_refund",
        _account(),
        sa.Column("stripe_refund_id", sa.Text(collation="C"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("stripe_invoice_id", sa.Text(), nullable=True),
        _moment("created_at"),
        _moment("changed_at", default_now=True),
        sa.CheckConstraint("amount >= 0", name=op.f("stripe_refund_amount_check")),
        sa.PrimaryKeyConstraint("attribution_id", "stripe_refund_id", name=op.f("stripe_refund_pkey")),
        sa.UniqueConstraint("stripe_refund_id", name=op.f("stripe_refund_stripe_refund_id_key")),
    )


def _create_holds() -> None:
    op.create_table(
        "payment_hold",
        _account(),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stripe_payment_intent_id", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        _moment("created_at", default_now=True),
        _moment("release_at"),
        _moment("claimed_until", nullable=True),
        _moment("confirmed_at", nullable=True),
        _moment("released_at", nullable=True),
        sa.PrimaryKeyConstraint("attribution_id", "number", name=op.f("payment_hold_pkey")),
        sa.UniqueConstraint("stripe_payment_intent_id", name=op.f("payment_hold_stripe_payment_intent_id_key")),
        sa.ForeignKeyConstraint(
            ["attribution_id"], ["stripe_customer.attribution_id"], name=op.f("payment_hold_attribution_id_fkey")
        ),
    )
    op.create_index(
        "payment_hold_open_idx",
        "payment_hold",
        ["attribution_id"],
        unique=True,
        postgresql_where=sa.text("released_at IS NULL"),
    )
    op.create_index(
        "payment_hold_due_idx", "payment_hold", ["release_at"], postgresql_where=sa.text("released_at IS NULL")
    )


def _create_disputes() -> None:
    op.create_table(
        "stripe_dispute",
        _account(),
        sa.Column("stripe_dispute_id", sa.Text(collation="C"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        _moment("created_at"),
        _moment("changed_at", default_now=True),
        sa.Column("blocked_user_ids", sa.ARRAY(sa.Uuid()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("blocked_account", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(f"status IN ({STATUSES})", name=op.f("stripe_dispute_status_check")),
        sa.PrimaryKeyConstraint("attribution_id", "stripe_dispute_id", name=op.f("stripe_dispute_pkey")),
        sa.UniqueConstraint("stripe_dispute_id", name=op.f("stripe_dispute_stripe_dispute_id_key")),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
