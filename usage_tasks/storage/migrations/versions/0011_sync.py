"""Meter reports: when one was parked, sent anew, doubted or dropped, and the period that it is told to."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_TABLE = "meter_report"


def upgrade() -> None:
    op.add_column(_TABLE, sa.Column("parked_at", sa.DateTime(timezone=True)))
    op.add_column(_TABLE, sa.Column("resends", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column(_TABLE, sa.Column("doubted_at", sa.DateTime(timezone=True)))
    op.add_column(_TABLE, sa.Column("period_starts_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE meter_report SET parked_at = created_at WHERE state = 'parked'")
    op.drop_constraint(op.f("meter_report_state_check"), _TABLE, type_="check")
    op.create_check_constraint(
        op.f("meter_report_state_check"), _TABLE, "state IN ('pending', 'accepted', 'parked', 'dropped')"
    )
    op.create_check_constraint(
        op.f("meter_report_parked_at_check"), _TABLE, "(state = 'parked') = (parked_at IS NOT NULL)"
    )
    where = {
        "claimed": (["attribution_id"], "claimed_until IS NOT NULL"),
        "open": (["attribution_id", "as_of"], "state IN ('pending', 'parked')"),
        "doubted": (["attribution_id"], "doubted_at IS NOT NULL"),
    }
    for name, (columns, condition) in where.items():
        op.create_index(f"meter_report_{name}_idx", _TABLE, columns, postgresql_where=sa.text(condition))
    op.create_index("meter_report_accepted_idx", _TABLE, ["accepted_at"], postgresql_using="brin")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
