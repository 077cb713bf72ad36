"""Credits that are given: notes and grants."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from usage_tasks.storage.migration_steps import add_check, replace_check

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

KINDS = "'session', 'adjustment', 'invoice', 'reset', 'upgrade', 'credit_note', 'grant_burn'"

# As before, with the two new kinds on their contra accounts.
KEEP_BALANCE = """
CREATE OR REPLACE FUNCTION keep_account_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account_balance AS held (attribution_id, used_cents, invoiced_cents, covered_cents, forgiven_cents)
    SELECT attribution_id,
           COALESCE(sum(credit_cents) FILTER (WHERE kind IN ('session', 'adjustment')), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind = 'invoice'), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind IN ('reset', 'grant_burn')), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind IN ('upgrade', 'credit_note')), 0)::bigint
    FROM inserted GROUP BY attribution_id ORDER BY attribution_id
    ON CONFLICT (attribution_id) DO UPDATE SET
        used_cents = held.used_cents + EXCLUDED.used_cents,
        invoiced_cents = held.invoiced_cents + EXCLUDED.invoiced_cents,
        covered_cents = held.covered_cents + EXCLUDED.covered_cents,
        forgiven_cents = held.forgiven_cents + EXCLUDED.forgiven_cents;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.add_column("ledger_entry", sa.Column("user_id", sa.Uuid(), nullable=True))
    replace_check("ledger_entry", "ledger_entry_kind_check", f"kind IN ({KINDS})")  # 0019 validates both
    add_check("ledger_entry", "ledger_entry_user_id_check", "kind = 'credit_note' OR user_id IS NULL")
    op.execute(KEEP_BALANCE)
    _create_grants()
    _create_lapses()
    terms = "attribution_id, number, key, priority, amount_cents, effective_at, expires_at, rollover_cap_cents"
    op.execute(
        f"CREATE TRIGGER credit_grant_immutable BEFORE UPDATE OF {terms}, description, created_at, actor "
        "OR DELETE OR TRUNCATE ON credit_grant FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER grant_lapse_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON grant_lapse "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def _create_grants() -> None:
    op.create_table(
        "credit_grant",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("effective_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rollover_cap_cents", sa.BigInteger(), nullable=True),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("amount_cents > 0", name=op.f("credit_grant_amount_cents_check")),
        sa.CheckConstraint("expires_at > effective_at", name=op.f("credit_grant_expires_at_check")),
        sa.CheckConstraint("rollover_cap_cents >= 0", name=op.f("credit_grant_rollover_cap_cents_check")),
        sa.PrimaryKeyConstraint("attribution_id", "number", name=op.f("credit_grant_pkey")),
        sa.UniqueConstraint("attribution_id", "key", name=op.f("credit_grant_attribution_id_key_key")),
    )
    op.create_index(
        "credit_grant_expiring_idx",
        "credit_grant",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("closed_at IS NULL"),
    )


def _create_lapses() -> None:
    op.create_table(
        "grant_lapse",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("lapsed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("credit_cents", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("credit_cents > 0", name=op.f("grant_lapse_credit_cents_check")),
        sa.CheckConstraint("reason IN ('expiry', 'rollover')", name=op.f("grant_lapse_reason_check")),
        sa.ForeignKeyConstraint(
            ["attribution_id", "number"],
            ["credit_grant.attribution_id", "credit_grant.number"],
            name=op.f("grant_lapse_attribution_id_number_fkey"),
        ),
        sa.PrimaryKeyConstraint("attribution_id", "number", "lapsed_at", name=op.f("grant_lapse_pkey")),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
