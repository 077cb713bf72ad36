"""The CHECKs of ledger entries hold for all rows: 0006, 0010 and 0012 changed them without a look at the rows."""

from collections.abc import Sequence

from usage_tasks.storage.migration_steps import validate

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None
compatible_from: str = "0016"


def upgrade() -> None:
    validate("ledger_entry", "ledger_entry_kind_check")
    validate("ledger_entry", "ledger_entry_user_id_check")


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
