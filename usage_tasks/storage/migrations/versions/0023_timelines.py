"""Timelines of sessions, in columns that are null for sessions of one segment; open sessions have a copy.

The class of an open session with a timeline is written with a mark: older code finds no price for it, and leaves it.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0023"
down_revision: str | None = "0022"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None
compatible_from: str = "0016"


def _class(row: str) -> str:
    # In two parts: SQLAlchemy takes a name behind a colon for a parameter.
    return f"{row}.workspace_class || CASE WHEN {row}.timeline IS NULL THEN '' ELSE ':' || 'timeline' END"


OPEN_INSERTED = f"""
CREATE OR REPLACE FUNCTION open_inserted_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO open_session (attribution_id, instance_id, workspace_class, started_at, ended_at, final_at, timeline)
    SELECT i.attribution_id, i.instance_id, {_class("i")}, i.started_at, i.ended_at, i.final_at, i.timeline
    FROM inserted i;
    RETURN NULL;
END $$
"""

# As before, with the timeline among what is billed.
OPEN_CHANGED = f"""
CREATE OR REPLACE FUNCTION open_changed_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE open_session AS held
    SET workspace_class = {_class("c")}, started_at = c.started_at, ended_at = c.ended_at, final_at = c.final_at,
        timeline = c.timeline
    FROM changed c
    WHERE held.attribution_id = c.attribution_id AND held.instance_id = c.instance_id
        AND (held.workspace_class, held.started_at, held.ended_at, held.final_at, held.timeline)
            IS DISTINCT FROM ({_class("c")}, c.started_at, c.ended_at, c.final_at, c.timeline);
    INSERT INTO open_session AS held
        (attribution_id, instance_id, workspace_class, started_at, ended_at, final_at, timeline, revision,
         posted_cents, settled_at)
    SELECT c.attribution_id, c.instance_id, {_class("c")}, c.started_at, c.ended_at, c.final_at, c.timeline,
           e.entries + 1, e.credit_cents, e.settled_at
    FROM changed c
    JOIN former f USING (instance_id)
    CROSS JOIN LATERAL (
        SELECT count(*)::int AS entries, COALESCE(sum(credit_cents), 0)::bigint AS credit_cents,
               max(effective_at) AS settled_at
        FROM ledger_entry
        WHERE attribution_id = c.attribution_id
            AND key >= 'session:' || c.instance_id || ':' AND key < 'session:' || c.instance_id || ';'
    ) AS e
    WHERE (c.workspace_class, c.started_at, c.ended_at, c.timeline)
            IS DISTINCT FROM (f.workspace_class, f.started_at, f.ended_at, f.timeline)
        AND NOT EXISTS (
            SELECT 1 FROM open_session o
            WHERE o.attribution_id = c.attribution_id AND o.instance_id = c.instance_id
        )
    ON CONFLICT (attribution_id, instance_id) DO UPDATE
    SET workspace_class = EXCLUDED.workspace_class, started_at = EXCLUDED.started_at, ended_at = EXCLUDED.ended_at,
        final_at = EXCLUDED.final_at, timeline = EXCLUDED.timeline;
    RETURN NULL;
END $$
"""

# A price change opens posted sessions again without their timelines, that of older code too.
ADD_TIMELINE = """
CREATE FUNCTION add_timeline() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    held jsonb := (SELECT w.timeline FROM workspace_instance w WHERE w.instance_id = NEW.instance_id);
BEGIN
    IF held IS NOT NULL THEN
        NEW.timeline := held;
        NEW.workspace_class := NEW.workspace_class || ':' || 'timeline';
    END IF;
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.add_column("workspace_instance", sa.Column("timeline", JSONB, nullable=True))
    op.add_column("workspace_instance", sa.Column("first_observed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("open_session", sa.Column("timeline", JSONB, nullable=True))
    op.add_column("quarantined_report", sa.Column("instance_id", sa.Uuid(), nullable=True))
    op.execute(OPEN_INSERTED)
    op.execute(OPEN_CHANGED)
    op.execute(ADD_TIMELINE)
    op.execute(
        "CREATE TRIGGER open_session_timeline BEFORE INSERT ON open_session FOR EACH ROW "
        "WHEN (NEW.revision > 1 AND NEW.timeline IS NULL) EXECUTE FUNCTION add_timeline()"
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
