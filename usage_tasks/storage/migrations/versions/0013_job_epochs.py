"""A job's epoch: whoever began the latest run may write, and nobody else."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "job_epoch",
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("job", name=op.f("job_epoch_pkey")),
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
