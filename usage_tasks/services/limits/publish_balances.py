"""Show the present balances to other services, in Redis: what changed, and everything where something may be missing.

Page by page: a short read in a transaction of its own, then one write of Redis with no transaction open.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from usage_tasks.coordination.published_balances import BalanceSnapshot, BalanceSnapshots
from usage_tasks.domain.limits import HardLimitGrace, hard_limit_cents, limit_state, remaining_cents
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.limits import account_standings
from usage_tasks.storage.limits.account_standings import AccountStanding

PAGE: Final = 10_000
"""Accounts a page: a large one, for each costs a look at everything that is open."""

OVERLAP: Final = timedelta(minutes=10)
"""Longer than any transaction may take: what commits later than it was stamped is not missed."""

_PAGES_MAX: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRun:
    """How many accounts were written, and whether these were all of them."""

    written: int
    full: bool


def write_snapshots(
    transaction: Transaction, snapshots: BalanceSnapshots, *, grace: HardLimitGrace, at: datetime, limit: int
) -> SnapshotRun:
    """Write the accounts that changed since the last run or on which something runs; all where the marker is gone.

    A page is `limit` accounts. Raises RetryableError if Redis is away: the next run writes what is missing.
    """
    with transaction() as connection:
        next_since = account_standings.changes_from(connection, overlap=OVERLAP)
    since = snapshots.find_marker()
    if since is None or since > next_since:  # the database's clock was set back: what changes now is not after it
        since = None
        snapshots.begin_rewrite()
    written, after = 0, ""
    for _ in range(_PAGES_MAX):
        with transaction() as connection:
            page = account_standings.list_standings(connection, at=at, since=since, after=after, limit=limit)
        if page:
            snapshots.write([_snapshot(each, grace=grace, at=at) for each in page])
            written, after = written + len(page), page[-1].attribution_id
        if len(page) < limit:
            snapshots.move_marker(next_since)
            break
    return SnapshotRun(written=written, full=since is None)


def _snapshot(standing: AccountStanding, *, grace: HardLimitGrace, at: datetime) -> BalanceSnapshot:
    return BalanceSnapshot(
        attribution_id=standing.attribution_id,
        balance_cents=standing.balance_cents,
        spending_limit=standing.spending_limit,
        remaining_cents=remaining_cents(standing.balance_cents, standing.spending_limit),
        hard_limit_cents=hard_limit_cents(standing.spending_limit, grace),
        limit_state=limit_state(standing.balance_cents, standing.spending_limit),
        burn_cents_per_hour=standing.burn_cents_per_hour,
        as_of=at,
    )
