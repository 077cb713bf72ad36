"""Stripe's events, and how far its lists were walked."""

from sqlalchemy import CheckConstraint, Column, Index, Integer, Table, Text, text

from usage_tasks.storage.schema.columns import metadata, moment, one_of, required

stripe_event = Table(
    "stripe_event",
    metadata,
    Column("event_id", Text, primary_key=True),
    required("type", Text()),
    Column("object_id", Text),
    moment("created_at"),
    moment("received_at", default_now=True),
    required("state", Text(), default="'pending'"),
    required("attempts", Integer(), default="0"),
    moment("next_attempt_at", default_now=True),
    moment("claimed_until", nullable=True),
    moment("applied_at", nullable=True),
    Column("outcome", Text),
    required("source", Text(), default="'webhook'"),
    one_of("state", ("pending", "applied", "parked", "dropped")),
    one_of("source", ("webhook", "backfill")),
    Index("stripe_event_pending_idx", "next_attempt_at", postgresql_where=text("state = 'pending'")),
    # For an operator's look, and for another event of the same fact.
    Index("stripe_event_set_aside_idx", "created_at", "event_id", postgresql_where=text("state = 'parked'")),
    Index("stripe_event_fact_idx", "object_id", "type", "created_at"),
)

# How far a list of Stripe's was walked: everything created before `since` is known; a walk that is not at its end
# goes on after `cursor`, and what failed in it keeps the next one from beginning later.
stripe_walk = Table(
    "stripe_walk",
    metadata,
    Column("name", Text, primary_key=True),
    moment("since", nullable=True),
    moment("until", nullable=True),
    Column("cursor", Text),
    moment("failed_since", nullable=True),
    moment("changed_at", default_now=True),
    CheckConstraint("(cursor IS NULL) = (until IS NULL)", name="cursor"),
)
