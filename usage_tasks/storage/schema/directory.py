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

# External ids are UUIDs in this namespace (docs/adr/0035). A trigger refuses changes.
directory_namespace = Table(
    "directory_namespace",
    metadata,
    Column("is_only", Boolean(), primary_key=True, server_default=text("true")),
    required("namespace", Uuid(), default="gen_random_uuid()"),
    CheckConstraint("is_only", name="is_only"),
)

# Names, for those who have one. A subject is `team:<uuid>`, `user:<uuid>` or `session:<uuid>`.
directory_name = Table(
    "directory_name",
    metadata,
    Column("subject", Text(collation="C"), primary_key=True),
    Column("external_id", Text()),
    Column("display_name", Text()),
    CheckConstraint("subject ~ '^(session|user|team):[0-9a-f-]{36}$'", name="subject"),
    CheckConstraint("num_nonnulls(external_id, display_name) > 0", name="named"),
    CheckConstraint("length(external_id) BETWEEN 1 AND 200", name="external_id"),
    CheckConstraint("length(display_name) BETWEEN 1 AND 200", name="display_name"),
)
