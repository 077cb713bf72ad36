"""The quantities that Stripe is to know."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from usage_tasks.domain.meter_reports import MeterReportState
from usage_tasks.storage.schema.columns import account, metadata, moment, one_of, required

meter_report = Table(
    "meter_report",
    metadata,
    account(primary_key=True),
    Column("as_of", DateTime(timezone=True), primary_key=True),
    required("identifier", Text()),
    required("quantity", BigInteger()),
    required("state", Text(), default="'pending'"),
    required("attempts", Integer(), default="0"),
    moment("next_attempt_at", default_now=True),
    moment("claimed_until", nullable=True),
    Column("error", Text),
    moment("created_at", default_now=True),
    moment("accepted_at", nullable=True),
    moment("parked_at", nullable=True),
    # Under how many identifiers it was sent before this one.
    required("resends", Integer(), default="0"),
    # Since when Stripe is suspected not to have counted what it took.
    moment("doubted_at", nullable=True),
    # The billing period of the report; of one period only the last report matters. Null for old reports.
    moment("period_starts_at", nullable=True),
    one_of("state", MeterReportState),
    CheckConstraint("quantity >= 0", name="quantity"),
    CheckConstraint("(state = 'accepted') = (accepted_at IS NOT NULL)", name="accepted_at"),
    CheckConstraint("(state = 'parked') = (parked_at IS NOT NULL)", name="parked_at"),
    UniqueConstraint("identifier"),
    Index("meter_report_pending_idx", "next_attempt_at", postgresql_where=text("state = 'pending'")),
    Index("meter_report_parked_idx", "attribution_id", postgresql_where=text("state = 'parked'")),
    Index("meter_report_claimed_idx", "attribution_id", postgresql_where=text("claimed_until IS NOT NULL")),
    Index("meter_report_open_idx", "attribution_id", "as_of", postgresql_where=text("state IN ('pending', 'parked')")),
    Index("meter_report_doubted_idx", "attribution_id", postgresql_where=text("doubted_at IS NOT NULL")),
    # Reports that Stripe accepted in a span of real time, for its later errors.
    Index("meter_report_accepted_idx", "accepted_at", postgresql_using="brin"),
)
