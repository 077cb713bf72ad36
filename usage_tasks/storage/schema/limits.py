"""Thresholds of accounts, and which levels were announced."""

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, Column, DateTime, Integer, Table, Text

from usage_tasks.domain.limits import Crossing
from usage_tasks.storage.schema.columns import account, metadata, moment, one_of, required

limit_thresholds = Table(
    "limit_thresholds",
    metadata,
    account(primary_key=True),
    # Percent of the spending limit, rising; an account without a row has the installation's.
    required("thresholds", ARRAY(Integer())),
    moment("changed_at", default_now=True),
    required("actor", Text()),
    CheckConstraint(
        "array_position(thresholds, NULL) IS NULL AND 1 <= ALL (thresholds) AND 1000 >= ALL (thresholds)",
        name="thresholds",
    ),
    CheckConstraint("cardinality(thresholds) <= 10", name="count"),
)

# Once a cycle, a limit and a level: the announcement's own memory, which outlives the outbox.
limit_crossing = Table(
    "limit_crossing",
    metadata,
    account(primary_key=True),
    Column("cycle_started_at", DateTime(timezone=True), primary_key=True),
    Column("spending_limit", BigInteger, primary_key=True, autoincrement=False),
    Column("crossing", Text, primary_key=True),
    Column("level_cents", BigInteger, primary_key=True, autoincrement=False),
    Column("percent", Integer),
    required("balance_cents", BigInteger()),
    moment("at"),
    moment("recorded_at", default_now=True),
    one_of("crossing", Crossing),
    CheckConstraint("balance_cents >= level_cents", name="level"),
)
