"""An index of the reports in quarantine by their session: those that an earlier report may yet prove right."""

from collections.abc import Sequence

import sqlalchemy as sa

from usage_tasks.storage.migration_steps import create_index

revision: str = "0024"
down_revision: str | None = "0023"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None
compatible_from: str = "0016"


def upgrade() -> None:
    create_index(
        "quarantined_report_session_idx",
        "quarantined_report",
        ["instance_id"],
        postgresql_where=sa.text("instance_id IS NOT NULL"),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
