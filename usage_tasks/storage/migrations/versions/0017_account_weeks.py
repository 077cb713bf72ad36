"""What the entries of an account come to in each week, kept by a trigger, so that the past costs what it reads."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# Posting writes the start of the session beside its entry; a version before this one does not, then it is looked up.
# Subqueries and not joins: the plan is kept for as long as the connection, and each lookup is by its index however
# many rows are inserted. A correction may move a session's start behind its first entry, which still reaches back.
KEEP_WEEKS = """
CREATE FUNCTION keep_account_weeks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account_week AS held (attribution_id, starts_at, credit_cents, reaches_back_to)
    SELECT e.attribution_id, date_trunc('week', e.effective_at, 'UTC'), sum(e.credit_cents)::bigint,
           min(LEAST(
               COALESCE(
                   e.session_started_at,
                   (SELECT w.started_at FROM workspace_instance w WHERE w.instance_id = e.instance_id)
               ),
               CASE WHEN e.kind = 'adjustment' THEN (
                   SELECT f.effective_at FROM ledger_entry f
                   WHERE f.attribution_id = e.attribution_id AND f.key = 'session:' || e.instance_id || ':' || 1
               ) END
           ))
    FROM inserted e GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (attribution_id, starts_at) DO UPDATE SET
        credit_cents = held.credit_cents + EXCLUDED.credit_cents,
        reaches_back_to = LEAST(held.reaches_back_to, EXCLUDED.reaches_back_to);
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "account_week",
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("credit_cents", sa.BigInteger(), nullable=False),
        sa.Column("reaches_back_to", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("attribution_id", "starts_at", name=op.f("account_week_pkey")),
    )
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("ledger_entry", sa.Column("session_started_at", sa.DateTime(timezone=True), nullable=True))
    op.execute(KEEP_WEEKS)
    # Waits for the writers of now, so that no entry is without the trigger when the next migration counts. It fires
    # after the one of the balance, by its name: who holds the account's balance keeps its weeks alone.
    op.execute(
        "CREATE TRIGGER ledger_entry_weeks AFTER INSERT ON ledger_entry "
        "REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION keep_account_weeks()"
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
