"""What was told first: of reports in quarantine, of sessions known by snapshots only, of changes that came alone."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0029"
down_revision: str | None = "0028"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None
compatible_from: str = "0016"


def upgrade() -> None:
    op.add_column("quarantined_report", sa.Column("first_sent_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("workspace_instance", sa.Column("start_reported_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "session_change",
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("begins_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("workspace_class", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(
            "instance_id",
            "user_id",
            "begins_at",
            "observed_at",
            "workspace_class",
            "state",
            name=op.f("session_change_pkey"),
        ),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
