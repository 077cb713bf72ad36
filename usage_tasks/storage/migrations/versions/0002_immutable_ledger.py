"""The ledger's triggers and the price periods' view: what the metadata of tables cannot say."""

from collections.abc import Sequence

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

REFUSE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: its rows are never changed or removed, corrections are new rows',
        TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$
"""

# A statement trigger sees every inserted row at once, so that a posting of 100,000 entries costs one grouping.
# Accounts are taken in order: two postings at once wait for one another instead of dead-locking.
KEEP_BALANCE = """
CREATE FUNCTION keep_account_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account_balance AS held (attribution_id, used_cents, invoiced_cents, covered_cents, forgiven_cents)
    SELECT attribution_id,
           COALESCE(sum(credit_cents) FILTER (WHERE kind IN ('session', 'adjustment')), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind = 'invoice'), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind = 'reset'), 0)::bigint,
           COALESCE(-sum(credit_cents) FILTER (WHERE kind = 'upgrade'), 0)::bigint
    FROM inserted GROUP BY attribution_id ORDER BY attribution_id
    ON CONFLICT (attribution_id) DO UPDATE SET
        used_cents = held.used_cents + EXCLUDED.used_cents,
        invoiced_cents = held.invoiced_cents + EXCLUDED.invoiced_cents,
        covered_cents = held.covered_cents + EXCLUDED.covered_cents,
        forgiven_cents = held.forgiven_cents + EXCLUDED.forgiven_cents;
    RETURN NULL;
END $$
"""

PRICE_PERIOD = """
CREATE VIEW price_period AS
SELECT workspace_class, effective_from, credits_per_minute,
       lead(effective_from) OVER (PARTITION BY workspace_class ORDER BY effective_from) AS effective_until
FROM price_version
"""


def upgrade() -> None:
    op.execute(REFUSE)
    for table in ("ledger_entry", "audit", "price_version"):
        op.execute(
            f"CREATE TRIGGER {table}_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(KEEP_BALANCE)
    op.execute(
        "CREATE TRIGGER ledger_entry_balance AFTER INSERT ON ledger_entry "
        "REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION keep_account_balance()"
    )
    op.execute(PRICE_PERIOD)


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
