"""The parts of an open session with a timeline, as two arrays beside it: a tick and a balance read no JSON."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0027"
down_revision: str | None = "0026"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None
compatible_from: str = "0016"

# The class of such a session ends with the mark ":timeline". A part that ended by the start is left out.
SET_PARTS = """
CREATE FUNCTION set_parts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT array_agg(p.begins_at ORDER BY p.begins_at), array_agg(p.price_key ORDER BY p.begins_at)
    INTO NEW.priced_from, NEW.price_keys
    FROM (
        SELECT t.*, lead(t.begins_at) OVER (ORDER BY t.begins_at) AS ends_at
        FROM (
            SELECT timestamptz '-infinity' AS begins_at, left(NEW.workspace_class, -9) AS price_key
            WHERE NEW.timeline IS NOT NULL
            UNION ALL
            SELECT g."from", g.workspace_class || CASE WHEN g.state = 'running' THEN '' ELSE ':' || g.state END
            FROM jsonb_to_recordset(NEW.timeline) AS g("from" timestamptz, workspace_class text, state text)
        ) AS t
    ) AS p
    WHERE COALESCE(p.ends_at, 'infinity') > NEW.started_at;
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.add_column("open_session", sa.Column("priced_from", sa.ARRAY(sa.DateTime(timezone=True)), nullable=True))
    op.add_column("open_session", sa.Column("price_keys", sa.ARRAY(sa.Text()), nullable=True))
    op.execute(SET_PARTS)
    # By its name it comes behind the trigger that adds the timeline.
    op.execute(
        "CREATE TRIGGER open_session_timeline_parts BEFORE INSERT OR UPDATE ON open_session FOR EACH ROW "
        "WHEN (NEW.timeline IS NOT NULL OR NEW.price_keys IS NOT NULL) EXECUTE FUNCTION set_parts()"
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
