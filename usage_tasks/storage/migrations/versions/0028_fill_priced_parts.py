"""The parts of sessions that were open before there was a trigger: one after another, while others write."""

from collections.abc import Sequence

from alembic import op

from usage_tasks.storage.migration_steps import beside_others

revision: str = "0028"
down_revision: str | None = "0027"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None
compatible_from: str = "0016"

# One row is locked at a time, so nothing can wait for this in a circle. The trigger fills the parts.
FILL = """
DO $$
DECLARE
    unfilled record;
BEGIN
    FOR unfilled IN
        SELECT attribution_id, instance_id FROM open_session WHERE timeline IS NOT NULL AND price_keys IS NULL
    LOOP
        UPDATE open_session SET timeline = timeline
        WHERE attribution_id = unfilled.attribution_id AND instance_id = unfilled.instance_id AND price_keys IS NULL;
        COMMIT;
    END LOOP;
END $$
"""


def upgrade() -> None:
    with beside_others():
        op.execute(FILL)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
