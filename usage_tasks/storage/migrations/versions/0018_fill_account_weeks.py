"""Count the weeks of entries that stood before there was a trigger: account by account, while others post."""

from collections.abc import Sequence

from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# Whoever posts waits for the account's balance, in the same order as here, and adds to its weeks after that. What was
# committed before the lock is counted, and nothing else can be; so it is counted once, and again where this is run
# again.
FILL = """
DO $$
DECLARE
    account text;
    filled int := 0;
BEGIN
    FOR account IN SELECT attribution_id FROM account_balance ORDER BY attribution_id LOOP
        PERFORM FROM account_balance WHERE attribution_id = account FOR UPDATE;
        INSERT INTO account_week (attribution_id, starts_at, credit_cents, reaches_back_to)
        SELECT e.attribution_id, date_trunc('week', e.effective_at, 'UTC'), sum(e.credit_cents)::bigint,
               min(LEAST(
                   (SELECT w.started_at FROM workspace_instance w WHERE w.instance_id = e.instance_id),
                   CASE WHEN e.kind = 'adjustment' THEN (
                       SELECT f.effective_at FROM ledger_entry f
                       WHERE f.attribution_id = e.attribution_id AND f.key = 'session:' || e.instance_id || ':' || 1
                   ) END
               ))
        FROM ledger_entry e WHERE e.attribution_id = account GROUP BY 1, 2
        ON CONFLICT (attribution_id, starts_at) DO UPDATE SET
            credit_cents = EXCLUDED.credit_cents, reaches_back_to = EXCLUDED.reaches_back_to;
        filled := filled + 1;
        IF filled % 100 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END $$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(FILL)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
