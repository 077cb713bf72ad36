"""Users, teams and members."""

from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKeyConstraint, Index, Table, Text, Uuid, text

from usage_tasks.domain.access import TeamRole
from usage_tasks.storage.schema.columns import metadata, moment, one_of, required

# The directory: each row as its latest report gives it (docs/adr/0013). Only a keyed digest of an e-mail is kept.
directory_user = Table(
    "directory_user",
    metadata,
    Column("user_id", Uuid(), primary_key=True),
    Column("email_digest", Text(collation="C")),
    required("administrator", Boolean()),
    required("deleted", Boolean()),
    moment("observed_at"),
    moment("recorded_at", default_now=True),
    required("actor", Text()),
    CheckConstraint("NOT deleted OR email_digest IS NULL", name="deleted"),
    CheckConstraint("email_digest ~ '^[0-9a-f]{64}$'", name="email_digest"),
    Index("directory_user_email_idx", "email_digest", postgresql_where=text("email_digest IS NOT NULL")),
)

directory_team = Table(
    "directory_team",
    metadata,
    Column("team_id", Uuid(), primary_key=True),
    Column("creator_user_id", Uuid()),
    required("digest", Text(collation="C")),  # of the report: which of two of the same instant holds
    moment("observed_at"),
    moment("recorded_at", default_now=True),
    required("actor", Text()),
)

directory_member = Table(
    "directory_member",
    metadata,
    Column("team_id", Uuid(), primary_key=True),
    Column("user_id", Uuid(), primary_key=True),
    required("role", Text()),
    one_of("role", TeamRole),
    ForeignKeyConstraint(["team_id"], ["directory_team.team_id"]),
)
