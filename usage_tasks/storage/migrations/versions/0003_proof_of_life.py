"""Proof of life: snapshots of what runs, stops inferred from them, caps of zombies."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

TABLE = "workspace_instance"
INFERRED_STOP = "CASE WHEN stopped_at IS NULL AND missed_at > last_seen_at THEN last_seen_at ELSE NULL::timestamp with time zone END"
ENDED = f"COALESCE(stopping_at, stopped_at, LEAST({INFERRED_STOP}, capped_at))"
UNCAPPED = "stopped_at IS NULL AND stopping_at IS NULL AND capped_at IS NULL AND posted_revision < revision"
CHECKS = {
    "last_seen_at": "stopped_at IS NOT NULL OR last_seen_at IS NOT NULL",
    "source": "(source IS NULL) = (source_seen_at IS NULL)",
    "capped_at": "(capped_at IS NULL) = (cap_reason IS NULL)",
    "cap_of_running": "capped_at IS NULL OR COALESCE(stopping_at, stopped_at) IS NULL",
    "cap_reason": "cap_reason IN ('heartbeat', 'lifetime')",
}

# Whoever changes what is billed of a posted session opens it again; a generated column can't be named here.
REOPEN = """
CREATE FUNCTION reopen_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := OLD.revision + 1;
    RETURN NEW;
END $$
"""


def _ended(row: str) -> str:
    inferred = (
        f"CASE WHEN {row}.stopped_at IS NULL AND {row}.missed_at > {row}.last_seen_at THEN {row}.last_seen_at END"
    )
    return f"COALESCE({row}.stopping_at, {row}.stopped_at, LEAST({inferred}, {row}.capped_at))"


REOPEN_TRIGGER = f"""
CREATE TRIGGER workspace_instance_reopen BEFORE UPDATE ON workspace_instance FOR EACH ROW
WHEN (OLD.posted_revision = OLD.revision AND NEW.revision = OLD.revision
    AND (OLD.workspace_class, OLD.started_at, {_ended("OLD")})
        IS DISTINCT FROM (NEW.workspace_class, NEW.started_at, {_ended("NEW")}))
EXECUTE FUNCTION reopen_session()
"""


def upgrade() -> None:
    op.create_table(
        "source_snapshot",
        sa.Column("source", sa.Text(collation="C"), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("source", name=op.f("source_snapshot_pkey")),
    )
    op.add_column(TABLE, sa.Column("source", sa.Text(), nullable=True))
    for name in ("source_seen_at", "last_seen_at", "missed_at", "capped_at"):
        op.add_column(TABLE, sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column(TABLE, sa.Column("cap_reason", sa.Text(), nullable=True))
    for name in ("heartbeat_released", "lifetime_released"):
        op.add_column(TABLE, sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False))
    # What was last reported to run was seen to run then.
    op.execute(f"UPDATE {TABLE} SET last_seen_at = observed_at WHERE stopped_at IS NULL")
    # One rewrite for the three: a generated column's expression can't be changed in place before PostgreSQL 17.
    op.execute(
        f"ALTER TABLE {TABLE} DROP COLUMN ended_at,"
        f" ADD COLUMN inferred_stopped_at timestamptz GENERATED ALWAYS AS ({INFERRED_STOP}) STORED,"
        f" ADD COLUMN final_at timestamptz GENERATED ALWAYS AS (COALESCE(stopped_at, {INFERRED_STOP})) STORED,"
        f" ADD COLUMN ended_at timestamptz GENERATED ALWAYS AS ({ENDED}) STORED"
    )
    for name, condition in CHECKS.items():
        op.create_check_constraint(op.f(f"{TABLE}_{name}_check"), TABLE, condition)
    _create_indexes()
    op.execute(REOPEN)
    op.execute(REOPEN_TRIGGER)


def _create_indexes() -> None:
    op.drop_index(f"{TABLE}_postable_idx", table_name=TABLE)
    for name, columns, condition in (
        ("postable", ["final_at"], "final_at IS NOT NULL AND posted_revision < revision"),
        ("source", ["source", "last_seen_at"], "stopped_at IS NULL"),
        ("silent", ["last_seen_at"], f"{UNCAPPED} AND NOT heartbeat_released"),
        ("old", ["started_at"], f"{UNCAPPED} AND NOT lifetime_released"),
        ("capped", ["capped_at"], "capped_at IS NOT NULL"),
    ):
        op.create_index(f"{TABLE}_{name}_idx", TABLE, columns, postgresql_where=sa.text(condition))


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
