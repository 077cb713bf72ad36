"""Since when a customer or subscription has a fresh idempotency key, and the prices asked for before the present one.

Triggers note both, so that the renewals of workers of earlier versions are noted too.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None
compatible_from: str = "0016"

NOTE_RENEWAL = """
CREATE FUNCTION note_renewal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.renewed_at := clock_timestamp();
    RETURN NEW;
END $$
"""
NOTE_EARLIER_PRICE = """
CREATE FUNCTION note_earlier_price() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.earlier_price_ids := array_append(array_remove(OLD.earlier_price_ids, OLD.price_id), OLD.price_id);
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.execute(NOTE_RENEWAL)
    op.execute(NOTE_EARLIER_PRICE)
    op.add_column(
        "stripe_subscription",
        sa.Column("earlier_price_ids", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    )
    for table, its_id in (("stripe_customer", "stripe_customer_id"), ("stripe_subscription", "stripe_subscription_id")):
        op.add_column(table, sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=True))
        # The key of a row whose answer is stored has done its work: no call with it is waited for.
        op.execute(
            f"CREATE TRIGGER {table}_renewal BEFORE UPDATE OF idempotency_key ON {table} FOR EACH ROW "
            f"WHEN (OLD.idempotency_key <> NEW.idempotency_key AND OLD.{its_id} IS NULL) "
            "EXECUTE FUNCTION note_renewal()"
        )
    op.execute(
        "CREATE TRIGGER stripe_subscription_price BEFORE UPDATE OF price_id ON stripe_subscription FOR EACH ROW "
        "WHEN (OLD.price_id <> NEW.price_id) EXECUTE FUNCTION note_earlier_price()"
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
