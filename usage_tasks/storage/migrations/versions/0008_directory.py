"""Who is in which team, as the platform tells it, and who has used up the free allowance."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

DIGEST = "email_digest ~ '^[0-9a-f]{64}$'"


def _moments() -> list[sa.Column[object]]:
    return [
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("actor", sa.Text(), nullable=False),
    ]


def upgrade() -> None:
    op.create_table(
        "directory_user",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("email_digest", sa.Text(collation="C"), nullable=True),
        sa.Column("administrator", sa.Boolean(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        *_moments(),
        sa.CheckConstraint("NOT deleted OR email_digest IS NULL", name=op.f("directory_user_deleted_check")),
        sa.CheckConstraint(DIGEST, name=op.f("directory_user_email_digest_check")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("directory_user_pkey")),
    )
    op.create_index(
        "directory_user_email_idx",
        "directory_user",
        ["email_digest"],
        postgresql_where=sa.text("email_digest IS NOT NULL"),
    )
    op.create_table(
        "directory_team",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("creator_user_id", sa.Uuid(), nullable=True),
        sa.Column("digest", sa.Text(collation="C"), nullable=False),
        *_moments(),
        sa.PrimaryKeyConstraint("team_id", name=op.f("directory_team_pkey")),
    )
    op.create_table(
        "directory_member",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.CheckConstraint("role IN ('owner', 'member')", name=op.f("directory_member_role_check")),
        sa.ForeignKeyConstraint(["team_id"], ["directory_team.team_id"], name=op.f("directory_member_team_id_fkey")),
        sa.PrimaryKeyConstraint("team_id", "user_id", name=op.f("directory_member_pkey")),
    )
    op.create_table(
        "allowance_claim",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("email_digest", sa.Text(collation="C"), nullable=True),
        sa.Column("attribution_id", sa.Text(collation="C"), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "recorded_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.CheckConstraint(DIGEST, name=op.f("allowance_claim_email_digest_check")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("allowance_claim_pkey")),
        sa.UniqueConstraint("attribution_id", name=op.f("allowance_claim_attribution_id_key")),
        sa.UniqueConstraint("email_digest", name=op.f("allowance_claim_email_digest_key")),
    )
    op.execute(
        "CREATE TRIGGER allowance_claim_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON allowance_claim "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    raise RuntimeError("migrations go forward only: a ledger is never dropped; restore a backup instead")
