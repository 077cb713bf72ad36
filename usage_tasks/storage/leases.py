"""Whether a row is free: its lease is over, or could not have been given by the clock that the database shows now.

Leases and waits end at instants of the database's clock. If that was ahead when they were given and has been set right
since, they would last until that time. No lease is longer than LEASE_MAX, and no wait than WAIT_MAX: one with a later
end than that from now counts as over. At worst a second worker works at a row, which the row's key allows for.
"""

from datetime import timedelta
from typing import Final

from usage_tasks.domain.errors import InvariantError

LEASE_MAX: Final = timedelta(hours=1)
WAIT_MAX: Final = timedelta(days=1)

_NOW: Final = "clock_timestamp()"
_SECOND: Final = timedelta(seconds=1)


def is_free(column: str = "claimed_until", *, now: str = _NOW) -> str:
    """Compose the condition that a row is not leased."""
    return f"({column} IS NULL OR {column} < {now} OR {column} > {now} + interval '{LEASE_MAX // _SECOND} seconds')"


def is_due(column: str = "next_attempt_at", *, now: str = _NOW) -> str:
    """Compose the condition that a row has waited long enough."""
    return f"({column} <= {now} OR {column} > {now} + interval '{WAIT_MAX // _SECOND} seconds')"


def bounded(lease: timedelta) -> timedelta:
    """Return a lease as it is. Raises InvariantError for a longer one than `is_free` believes in."""
    if lease > LEASE_MAX:
        raise InvariantError(f"lease: must be at most {LEASE_MAX} (got {lease})")
    return lease
