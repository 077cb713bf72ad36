"""Thresholds of accounts, levels that were crossed, and what was posted lately."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    now = sa.text("clock_timestamp()")
    op.create_table(
        "limit_thresholds",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("thresholds", sa.ARRAY(sa.Integer()), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "array_position(thresholds, NULL) IS NULL AND 1 <= ALL (thresholds) AND 1000 >= ALL (thresholds)",
            name=op.f("limit_thresholds_thresholds_check"),
        ),
        sa.CheckConstraint("cardinality(thresholds) <= 10", name=op.f("limit_thresholds_count_check")),
        sa.PrimaryKeyConstraint("attribution_id", name=op.f("limit_thresholds_pkey")),
    )
    op.create_table(
        "limit_crossing",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("cycle_started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("spending_limit", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("crossing", sa.Text(), nullable=False),
        sa.Column("level_cents", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("percent", sa.Integer(), nullable=True),
        sa.Column("balance_cents", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.CheckConstraint(
            "crossing IN ('threshold', 'limit', 'hard_limit')", name=op.f("limit_crossing_crossing_check")
        ),
        sa.CheckConstraint("balance_cents >= level_cents", name=op.f("limit_crossing_level_check")),
        sa.PrimaryKeyConstraint(
            "attribution_id",
            "cycle_started_at",
            "spending_limit",
            "crossing",
            "level_cents",
            name=op.f("limit_crossing_pkey"),
        ),
    )
    op.create_index("ledger_entry_posted_idx", "ledger_entry", ["posted_at"], postgresql_using="brin")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
