"""Accounts that are set aside for how they are subscribed in Stripe, found by a small index."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("stripe_customer", sa.Column("looked_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("stripe_customer", sa.Column("parked_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("stripe_customer", sa.Column("parked_reason", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("stripe_customer_parked_check"), "stripe_customer", "(parked_at IS NULL) = (parked_reason IS NULL)"
    )
    op.create_index(
        "stripe_customer_parked_idx",
        "stripe_customer",
        ["attribution_id"],
        postgresql_where=sa.text("parked_at IS NOT NULL"),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
