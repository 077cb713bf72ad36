"""An index of the open sessions that have a timeline: a tick asks for them, and mostly there are none."""

from collections.abc import Sequence

import sqlalchemy as sa

from usage_tasks.storage.migration_steps import create_index

revision: str = "0026"
down_revision: str | None = "0025"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None
compatible_from: str = "0016"


def upgrade() -> None:
    create_index(
        "open_session_timeline_idx",
        "open_session",
        ["attribution_id"],
        postgresql_where=sa.text("timeline IS NOT NULL"),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
