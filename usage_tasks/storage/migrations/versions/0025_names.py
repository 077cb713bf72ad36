"""External ids and display names of sessions, users and teams, and the namespace in which external ids are UUIDs."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0025"
down_revision: str | None = "0024"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None
compatible_from: str = "0016"

# A trigger, for an older worker that takes up a deletion knows no names.
FORGET = """
CREATE FUNCTION forget_names_of_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM directory_name WHERE subject = 'user:' || NEW.user_id;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "directory_namespace",
        sa.Column("is_only", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("namespace", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.CheckConstraint("is_only", name=op.f("directory_namespace_is_only_check")),
        sa.PrimaryKeyConstraint("is_only", name=op.f("directory_namespace_pkey")),
    )
    op.execute("INSERT INTO directory_namespace DEFAULT VALUES")
    op.execute(
        "CREATE TRIGGER directory_namespace_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON directory_namespace "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.create_table(
        "directory_name",
        sa.Column("subject", sa.Text(collation="C"), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("display_name", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "subject ~ '^(session|user|team):[0-9a-f-]{36}$'", name=op.f("directory_name_subject_check")
        ),
        sa.CheckConstraint("num_nonnulls(external_id, display_name) > 0", name=op.f("directory_name_named_check")),
        sa.CheckConstraint("length(external_id) BETWEEN 1 AND 200", name=op.f("directory_name_external_id_check")),
        sa.CheckConstraint("length(display_name) BETWEEN 1 AND 200", name=op.f("directory_name_display_name_check")),
        sa.PrimaryKeyConstraint("subject", name=op.f("directory_name_pkey")),
    )
    op.execute(FORGET)
    op.execute(
        "CREATE TRIGGER directory_user_names AFTER INSERT OR UPDATE OF deleted ON directory_user "
        "FOR EACH ROW WHEN (NEW.deleted) EXECUTE FUNCTION forget_names_of_deleted()"
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
