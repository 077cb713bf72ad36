"""Credits that are given: notes and grants."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0002"
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
    op.drop_constraint(op.f("ledger_entry_kind_check"), "ledger_entry", type_="check")
    op.create_check_constraint(op.f("ledger_entry_kind_check"), "ledger_entry", f"kind IN ({KINDS})")
    op.create_check_constraint(
        op.f("ledger_entry_user_id_check"), "ledger_entry", "kind = 'credit_note' OR user_id IS NULL"
    )
    op.execute(KEEP_BALANCE)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
