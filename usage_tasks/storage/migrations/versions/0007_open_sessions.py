"""What is not in the ledger yet stands in a narrow table of its own, kept by triggers: posting is to delete a row."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLE = "workspace_instance"

OPEN_INSERTED = """
CREATE FUNCTION open_inserted_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO open_session (attribution_id, instance_id, workspace_class, started_at, ended_at, final_at)
    SELECT attribution_id, instance_id, workspace_class, started_at, ended_at, final_at FROM inserted;
    RETURN NULL;
END $$
"""

# An open session follows its facts; one that is in the ledger opens again where what is billed of it changed. Each
# statement sees what was committed before it: one that waited for a posting finds the row gone, and opens it anew.
OPEN_CHANGED = """
CREATE FUNCTION open_changed_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE open_session AS held
    SET workspace_class = c.workspace_class, started_at = c.started_at, ended_at = c.ended_at, final_at = c.final_at
    FROM changed c
    WHERE held.attribution_id = c.attribution_id AND held.instance_id = c.instance_id
        AND (held.workspace_class, held.started_at, held.ended_at, held.final_at)
            IS DISTINCT FROM (c.workspace_class, c.started_at, c.ended_at, c.final_at);
    INSERT INTO open_session AS held
        (attribution_id, instance_id, workspace_class, started_at, ended_at, final_at, revision, posted_cents,
         settled_at)
    SELECT c.attribution_id, c.instance_id, c.workspace_class, c.started_at, c.ended_at, c.final_at,
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
    WHERE (c.workspace_class, c.started_at, c.ended_at) IS DISTINCT FROM (f.workspace_class, f.started_at, f.ended_at)
        AND NOT EXISTS (
            SELECT 1 FROM open_session o
            WHERE o.attribution_id = c.attribution_id AND o.instance_id = c.instance_id
        )
    ON CONFLICT (attribution_id, instance_id) DO UPDATE
    SET workspace_class = EXCLUDED.workspace_class, started_at = EXCLUDED.started_at, ended_at = EXCLUDED.ended_at,
        final_at = EXCLUDED.final_at;
    RETURN NULL;
END $$
"""

# As before, with the latest instant at which an entry takes effect: whoever asks at or after it need not look for more.
KEEP_BALANCE = """
CREATE OR REPLACE FUNCTION keep_account_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account_balance AS held
        (attribution_id, used_cents, invoiced_cents, covered_cents, forgiven_cents, latest_effective_at)
    SELECT attribution_id,
           COALESCE(sum(credit_cents) FILTER (WHERE kind IN ('session', 'adjustment')), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind = 'invoice'), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind IN ('reset', 'grant_burn')), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind IN ('upgrade', 'credit_note')), 0)::bigint,
           max(effective_at)
    FROM inserted GROUP BY attribution_id ORDER BY attribution_id
    ON CONFLICT (attribution_id) DO UPDATE SET
        used_cents = held.used_cents + EXCLUDED.used_cents,
        invoiced_cents = held.invoiced_cents + EXCLUDED.invoiced_cents,
        covered_cents = held.covered_cents + EXCLUDED.covered_cents,
        forgiven_cents = held.forgiven_cents + EXCLUDED.forgiven_cents,
        latest_effective_at = GREATEST(held.latest_effective_at, EXCLUDED.latest_effective_at);
    RETURN NULL;
END $$
"""

LATEST = """
UPDATE account_balance AS held SET latest_effective_at = e.latest
FROM (SELECT attribution_id, max(effective_at) AS latest FROM ledger_entry GROUP BY attribution_id) AS e
WHERE e.attribution_id = held.attribution_id
"""

FILL = """
INSERT INTO open_session
    (attribution_id, instance_id, workspace_class, started_at, ended_at, final_at, revision, posted_cents, settled_at)
SELECT attribution_id, instance_id, workspace_class, started_at, ended_at, final_at, posted_revision + 1, posted_cents,
       settled_at
FROM workspace_instance WHERE posted_revision < revision
"""


def upgrade() -> None:
    op.create_table(
        "open_session",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("instance_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_class", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("final_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("posted_cents", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint("(revision = 1) = (settled_at IS NULL)", name=op.f("open_session_settled_at_check")),
        sa.PrimaryKeyConstraint("attribution_id", "instance_id", name=op.f("open_session_pkey")),
    )
    op.execute(FILL)
    op.create_index(
        "open_session_final_idx", "open_session", ["final_at"], postgresql_where=sa.text("final_at IS NOT NULL")
    )
    op.execute("DROP TRIGGER workspace_instance_reopen ON workspace_instance")
    op.execute("DROP FUNCTION reopen_session()")
    for name in ("open", "postable", "silent", "old"):
        op.drop_index(f"{TABLE}_{name}_idx", table_name=TABLE)
    for name in ("posted_revision", "settled_at"):
        op.drop_constraint(op.f(f"{TABLE}_{name}_check"), TABLE, type_="check")
    for name in ("revision", "posted_revision", "posted_cents", "settled_at"):
        op.drop_column(TABLE, name)
    op.create_index(
        f"{TABLE}_silent_idx",
        TABLE,
        ["last_seen_at"],
        postgresql_where=sa.text(
            "final_at IS NULL AND stopping_at IS NULL AND capped_at IS NULL AND NOT heartbeat_released"
        ),
    )
    op.add_column("account_balance", sa.Column("latest_effective_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(LATEST)
    op.alter_column("account_balance", "latest_effective_at", nullable=False)
    op.execute(KEEP_BALANCE)
    op.execute(OPEN_INSERTED)
    op.execute(OPEN_CHANGED)
    op.execute(
        "CREATE TRIGGER workspace_instance_inserted AFTER INSERT ON workspace_instance "
        "REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION open_inserted_sessions()"
    )
    op.execute(
        "CREATE TRIGGER workspace_instance_changed AFTER UPDATE ON workspace_instance "
        "REFERENCING OLD TABLE AS former NEW TABLE AS changed "
        "FOR EACH STATEMENT EXECUTE FUNCTION open_changed_sessions()"
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
