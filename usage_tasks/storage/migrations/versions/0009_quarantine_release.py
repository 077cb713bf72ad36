"""What a refused report must keep to be taken up later: when it was sent, and the snapshot that it was in."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLE = "quarantined_report"


def upgrade() -> None:
    op.add_column(TABLE, sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(TABLE, sa.Column("snapshot_source", sa.Text(), nullable=True))
    op.execute(f"UPDATE {TABLE} SET sent_at = last_seen_at")
    op.alter_column(TABLE, "sent_at", nullable=False)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
