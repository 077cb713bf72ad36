"""The installation's id, announcements to the platform, job runs, and the audit of changes."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from usage_tasks.storage.schema.columns import metadata, moment, required

installation = Table(
    "installation",
    metadata,
    Column("is_only", Boolean, primary_key=True, server_default=text("true")),
    required("installation_id", Uuid(), default="gen_random_uuid()"),
    moment("created_at", default_now=True),
    CheckConstraint("is_only", name="is_only"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("outbox_id", BigInteger, Identity(always=True), primary_key=True),
    required("key", Text()),
    required("task", Text()),
    required("payload", JSONB()),
    moment("created_at", default_now=True),
    moment("claimed_until", nullable=True),
    moment("dispatched_at", nullable=True),
    UniqueConstraint("key"),
    Index("outbox_undispatched_idx", "outbox_id", postgresql_where=text("dispatched_at IS NULL")),
    # Rows that may be pruned, by the name of the message.
    Index("outbox_sent_idx", "task", "dispatched_at", postgresql_where=text("dispatched_at IS NOT NULL")),
)

job_epoch = Table(
    "job_epoch",
    metadata,
    Column("job", Text, primary_key=True),
    required("epoch", BigInteger()),
)

job_run = Table(
    "job_run",
    metadata,
    Column("job", Text, primary_key=True),
    Column("slot", DateTime(timezone=True), primary_key=True),
    moment("started_at", default_now=True),
    moment("finished_at", nullable=True),
    required("attempts", Integer(), default="1"),
    Column("outcome", Text),
    Column("summary", JSONB),
    Index("job_run_started_idx", "job", "started_at"),
    # The latest run of each outcome, and when the latest one ended that was done.
    Index("job_run_outcome_idx", "job", "outcome", "slot"),
    Index("job_run_done_idx", "job", "finished_at", postgresql_where=text("outcome = 'done'")),
)

# The latest slot of each job whose row was pruned: no slot up to there is run any more.
job_pruned = Table(
    "job_pruned",
    metadata,
    Column("job", Text, primary_key=True),
    moment("slot"),
)

audit = Table(
    "audit",
    metadata,
    Column("audit_id", BigInteger, Identity(always=True), primary_key=True),
    moment("recorded_at", default_now=True),
    moment("at"),
    required("actor", Text()),
    required("action", Text()),
    Column("attribution_id", Text(collation="C")),  # null where a change concerns no single account
    required("details", JSONB()),
    Index("audit_account_idx", "attribution_id", "audit_id"),
)
