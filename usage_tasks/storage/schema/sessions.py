"""Sessions as they were reported, what of them is not in the ledger yet, sources, quarantine."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from usage_tasks.domain.sessions import CapReason
from usage_tasks.storage.schema.columns import account, metadata, moment, one_of, required

_INFERRED_STOP = (
    "CASE WHEN stopped_at IS NULL AND missed_at > last_seen_at "
    "THEN last_seen_at ELSE NULL::timestamp with time zone END"
)

workspace_instance = Table(
    "workspace_instance",
    metadata,
    Column("instance_id", Uuid(), primary_key=True),
    account(),
    required("user_id", Uuid()),
    required("workspace_id", Text()),
    required("workspace_class", Text()),
    moment("created_at", nullable=True),
    moment("started_at"),
    moment("stopping_at", nullable=True),
    moment("stopped_at", nullable=True),
    moment("observed_at"),
    moment("recorded_at", default_now=True),
    # Where it runs, by the latest observation that names a source; its latest proof of life; the latest complete
    # snapshot of its source. Each merges by its maximum (docs/adr/0008).
    Column("source", Text),
    moment("source_seen_at", nullable=True),
    moment("last_seen_at", nullable=True),
    moment("missed_at", nullable=True),
    # Its classes and states where it had several, and its first observation unless it is observed_at: docs/adr/0034.
    Column("timeline", JSONB),
    moment("first_observed_at", nullable=True),
    # When its start was reported first: null if at first_observed_at, the year 9999 if only its present was.
    Column("start_reported_at", DateTime(timezone=True)),
    # A zombie accrues no further than this. Each reason can be released once and for all.
    moment("capped_at", nullable=True),
    Column("cap_reason", Text),
    required("heartbeat_released", Boolean(), default="false"),
    required("lifetime_released", Boolean(), default="false"),
    Column("inferred_stopped_at", DateTime(timezone=True), Computed(_INFERRED_STOP, persisted=True)),
    # From here on it is final: a reported stop, else an inferred one.
    Column("final_at", DateTime(timezone=True), Computed(f"COALESCE(stopped_at, {_INFERRED_STOP})", persisted=True)),
    # The end of billed time; null while it runs. A draft has stopping_at but not yet stopped_at.
    Column(
        "ended_at",
        DateTime(timezone=True),
        Computed(f"COALESCE(stopping_at, stopped_at, LEAST({_INFERRED_STOP}, capped_at))", persisted=True),
    ),
    # Odd but honest input: it bills nothing and can be listed.
    Column(
        "stops_before_start",
        Boolean,
        Computed("COALESCE(COALESCE(stopping_at, stopped_at) < started_at, false)", persisted=True),
    ),
    CheckConstraint("stopped_at IS NOT NULL OR last_seen_at IS NOT NULL", name="last_seen_at"),
    CheckConstraint("(source IS NULL) = (source_seen_at IS NULL)", name="source"),
    CheckConstraint("(capped_at IS NULL) = (cap_reason IS NULL)", name="capped_at"),
    CheckConstraint("capped_at IS NULL OR COALESCE(stopping_at, stopped_at) IS NULL", name="cap_of_running"),
    one_of("cap_reason", CapReason),
    Index("workspace_instance_odd_idx", "started_at", postgresql_where=text("stops_before_start")),
    Index("workspace_instance_source_idx", "source", "last_seen_at", postgresql_where=text("stopped_at IS NULL")),
    Index(
        "workspace_instance_silent_idx",
        "last_seen_at",
        postgresql_where=text(
            "final_at IS NULL AND stopping_at IS NULL AND capped_at IS NULL AND NOT heartbeat_released"
        ),
    ),
    Index("workspace_instance_capped_idx", "capped_at", postgresql_where=text("capped_at IS NOT NULL")),
)

# A session whose latest facts are not in the ledger: what runs, what stopped since the last tick, what was corrected.
# Triggers of workspace_instance keep it; posting deletes from it (docs/adr/0012).
open_session = Table(
    "open_session",
    metadata,
    account(primary_key=True),
    Column("instance_id", Uuid(), primary_key=True),
    required("workspace_class", Text()),
    moment("started_at"),
    moment("ended_at", nullable=True),
    moment("final_at", nullable=True),
    # The number of the entry to come; what its earlier entries come to, and the latest effective time of those: at
    # any later instant they sum to the price that was posted.
    required("revision", Integer(), default="1"),
    required("posted_cents", BigInteger(), default="0"),
    moment("settled_at", nullable=True),
    moment("opened_at", default_now=True),
    # The session's timeline; its class then ends in ":timeline", which has no price: docs/adr/0034.
    Column("timeline", JSONB),
    # A trigger takes the timeline apart: from when on which price key holds, the first one from before its start.
    Column("priced_from", ARRAY(DateTime(timezone=True))),
    Column("price_keys", ARRAY(Text)),
    CheckConstraint("(revision = 1) = (settled_at IS NULL)", name="settled_at"),
    Index("open_session_final_idx", "final_at", postgresql_where=text("final_at IS NOT NULL")),
    Index("open_session_timeline_idx", "attribution_id", postgresql_where=text("timeline IS NOT NULL")),
)

source_snapshot = Table(
    "source_snapshot",
    metadata,
    Column("source", Text(collation="C"), primary_key=True),
    # Null for a source that was only named in reports so far.
    moment("taken_at", nullable=True),
    moment("recorded_at", default_now=True),
)

quarantined_report = Table(
    "quarantined_report",
    metadata,
    Column("digest", Text, primary_key=True),
    required("field", Text()),
    required("reason", Text()),
    required("report", Text()),
    required("times_seen", Integer(), default="1"),
    moment("first_seen_at", default_now=True),
    moment("last_seen_at", default_now=True),
    required("actor", Text()),
    # The latest instant as of which it was sent, and the source whose snapshot it was in.
    moment("sent_at"),
    Column("snapshot_source", Text),
    # The session of a report that could be read.
    Column("instance_id", Uuid()),
    # The earliest instant as of which it was sent; null: an older worker kept it, and it was the latest one.
    Column("first_sent_at", DateTime(timezone=True)),
    Index("quarantined_report_seen_idx", "first_seen_at"),
    Index("quarantined_report_session_idx", "instance_id", postgresql_where=text("instance_id IS NOT NULL")),
)

# The present of sessions, of snapshots and of changes in files: it holds whatever the start is.
session_change = Table(
    "session_change",
    metadata,
    Column("instance_id", Uuid(), primary_key=True),
    Column("user_id", Uuid(), primary_key=True),
    Column("begins_at", DateTime(timezone=True), primary_key=True),
    Column("observed_at", DateTime(timezone=True), primary_key=True),
    Column("workspace_class", Text, primary_key=True),
    Column("state", Text, primary_key=True),
)
