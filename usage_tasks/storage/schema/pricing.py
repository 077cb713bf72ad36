"""The versions of prices."""

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Integer, Numeric, Table, Text

from usage_tasks.storage.schema.columns import metadata, moment, one_of, required

PRICE_ORIGINS = ("configuration", "operator")

price_version = Table(
    "price_version",
    metadata,
    Column("workspace_class", Text, primary_key=True),
    Column("effective_from", DateTime(timezone=True), primary_key=True),
    required("credits_per_minute", Numeric()),
    moment("created_at", default_now=True),
    required("actor", Text()),
    # Of the version in force at a session's start: the least that it costs, and the steps that its time is charged in.
    required("minimum_cents", BigInteger(), default="0"),
    required("rounding_seconds", Integer(), default="1"),
    # The file publishes its changes since its last publication: versions added by hand are marked.
    required("origin", Text(), default="'configuration'"),
    CheckConstraint("credits_per_minute >= 0", name="credits_per_minute"),
    CheckConstraint("minimum_cents >= 0", name="minimum_cents"),
    CheckConstraint("rounding_seconds >= 1", name="rounding_seconds"),
    one_of("origin", PRICE_ORIGINS),
)
