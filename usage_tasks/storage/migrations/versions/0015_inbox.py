"""Events of the inbox: how each came, the parked ones at hand, and those for one fact found."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str | None = "0013"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("stripe_event", sa.Column("source", sa.Text(), server_default=sa.text("'webhook'"), nullable=False))
    op.create_check_constraint(op.f("stripe_event_source_check"), "stripe_event", "source IN ('webhook', 'backfill')")
    op.drop_constraint(op.f("stripe_event_state_check"), "stripe_event")
    op.create_check_constraint(
        op.f("stripe_event_state_check"), "stripe_event", "state IN ('pending', 'applied', 'parked', 'dropped')"
    )
    op.create_index(
        "stripe_event_set_aside_idx",
        "stripe_event",
        ["created_at", "event_id"],
        postgresql_where=sa.text("state = 'parked'"),
    )
    op.create_index("stripe_event_fact_idx", "stripe_event", ["object_id", "type", "created_at"])


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
