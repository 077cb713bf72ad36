"""The tables, as SQLAlchemy metadata; triggers and views stand in the migrations. `alembic check` holds them equal.

One module a context, all in one metadata.
The account (`attribution_id`) is the sharding key: it stands first in every key that an account's data has.
Credits are stored as credit cents (bigint), prices as exact numerics of credits per minute, times as timestamptz.
"""

from usage_tasks.storage.schema import (
    directory,
    inbox,
    ledger,
    limits,
    metering,
    operations,
    payments,
    pricing,
    sessions,
)
from usage_tasks.storage.schema.columns import metadata

__all__ = [
    "directory",
    "inbox",
    "ledger",
    "limits",
    "metadata",
    "metering",
    "operations",
    "payments",
    "pricing",
    "sessions",
]
