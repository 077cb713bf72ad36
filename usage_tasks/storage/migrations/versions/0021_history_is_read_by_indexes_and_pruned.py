"""Indexes for looks at the latest rows of a long history and for pruning it, and how far each job's runs were pruned."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from usage_tasks.storage.migration_steps import create_index

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None
compatible_from: str = "0016"


def upgrade() -> None:
    # Each step may be run again: the indexes are built outside of the migration's transaction.
    op.create_table(
        "job_pruned",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("slot", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job", name=op.f("job_pruned_pkey")),
        if_not_exists=True,
    )
    create_index("job_run_outcome_idx", "job_run", ["job", "outcome", "slot"])
    create_index("job_run_done_idx", "job_run", ["job", "finished_at"], postgresql_where=sa.text("outcome = 'done'"))
    create_index(
        "outbox_sent_idx", "outbox", ["task", "dispatched_at"], postgresql_where=sa.text("dispatched_at IS NOT NULL")
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
