"""Minimum charges and rounding steps of price versions, where a version came from; audit rows without an account."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

PRICE_PERIOD = """
CREATE OR REPLACE VIEW price_period AS
SELECT workspace_class, effective_from, credits_per_minute,
       lead(effective_from) OVER (PARTITION BY workspace_class ORDER BY effective_from) AS effective_until,
       minimum_cents, rounding_seconds
FROM price_version
"""


def upgrade() -> None:
    op.add_column(
        "price_version", sa.Column("minimum_cents", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column(
        "price_version", sa.Column("rounding_seconds", sa.Integer(), server_default=sa.text("1"), nullable=False)
    )
    op.add_column(
        "price_version", sa.Column("origin", sa.Text(), server_default=sa.text("'configuration'"), nullable=False)
    )
    op.create_check_constraint(op.f("price_version_minimum_cents_check"), "price_version", "minimum_cents >= 0")
    op.create_check_constraint(op.f("price_version_rounding_seconds_check"), "price_version", "rounding_seconds >= 1")
    op.create_check_constraint(
        op.f("price_version_origin_check"), "price_version", "origin IN ('configuration', 'operator')"
    )
    op.execute(PRICE_PERIOD)
    op.alter_column("audit", "attribution_id", existing_type=sa.Text(collation="C"), nullable=True)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
