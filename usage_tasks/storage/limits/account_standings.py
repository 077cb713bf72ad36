"""Running sessions and their hourly cost, beside balance and limit: for entitlements and the snapshot in Redis."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.exhaustion import Accrual
from usage_tasks.domain.timelines import prices_along
from usage_tasks.storage.ledger.account_weeks import entries_reaching
from usage_tasks.storage.ledger.balances import with_balances
from usage_tasks.storage.pricing.prices import list_histories
from usage_tasks.storage.pricing.timelines_sql import at_instant, class_of_open, decode
from usage_tasks.storage.rows import fetch, fetch_one

# Sessions that run at an instant: sessions that are not final, or became final later. OFFSET 0: each by its index.
_AT = "CAST(:at AS timestamptz)"
_RUNS = f"started_at <= {_AT} AND (ended_at IS NULL OR ended_at > {_AT})"
ACCRUING = f"""
    SELECT {class_of_open("o")} AS workspace_class, timeline, started_at, ended_at
    FROM open_session o WHERE attribution_id = :account AND {_RUNS}
    UNION ALL
    SELECT w.workspace_class, w.timeline, w.started_at, w.ended_at FROM (
        SELECT DISTINCT instance_id FROM ({entries_reaching(":account", since=_AT, until=_AT)}) AS e
        WHERE reaches_back AND effective_at > {_AT}
    ) AS later CROSS JOIN LATERAL (
        SELECT workspace_class, timeline, started_at, ended_at FROM workspace_instance
        WHERE instance_id = later.instance_id AND {_RUNS} AND NOT EXISTS (
            SELECT 1 FROM open_session o WHERE o.attribution_id = :account AND o.instance_id = later.instance_id
        )
        OFFSET 0
    ) AS w
"""


def list_accruals(connection: Connection, attribution_id: AttributionId, *, at: datetime) -> list[Accrual]:
    """List the sessions of an account that run at `at`, as far as is known now, with their ends and prices."""
    rows = fetch(connection, ACCRUING, account=attribution_id, at=at)
    timelines = [decode(row.timeline) for row in rows]
    keys = {row.workspace_class for row in rows} | {each.price_key for timeline in timelines for each in timeline}
    histories = list_histories(connection, keys)
    return [
        Accrual(
            started_at=row.started_at,
            ended_at=row.ended_at,
            versions=prices_along(timeline, histories, class_at_start=row.workspace_class)
            if timeline
            else histories[row.workspace_class],
        )
        for row, timeline in zip(rows, timelines, strict=True)
        if histories.keys() >= {row.workspace_class, *(each.price_key for each in timeline)}
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStanding:
    """An account at an instant. The limit is in credits, the burn rate of what runs in cents per hour, exact."""

    attribution_id: AttributionId
    balance_cents: CreditCents
    spending_limit: int
    burn_cents_per_hour: Decimal


_ALL = "true"
# Only an entry, a version of its cost center or an open session changes an account's standing.
_CHANGED = """(
    c.created_at >= :since
    OR EXISTS (SELECT 1 FROM open_session o WHERE o.attribution_id = c.attribution_id)
    OR c.attribution_id IN (SELECT e.attribution_id FROM ledger_entry e WHERE e.posted_at >= :since)
)"""


def _page(which: str) -> str:
    asked = f"""
        SELECT c.attribution_id, CAST(:at AS timestamptz) AS at FROM cost_center c
        WHERE c.superseded_at IS NULL AND c.attribution_id > :after AND {which}
        ORDER BY c.attribution_id LIMIT :limit
    """
    return f"""
        WITH {with_balances(asked)}, burn AS (
            SELECT a.attribution_id, 6000 * sum(p.credits_per_minute) AS cents_per_hour
            FROM asked a
            JOIN open_session w ON w.attribution_id = a.attribution_id
                AND w.started_at <= a.at AND (w.ended_at IS NULL OR w.ended_at > a.at)
            JOIN price_period p ON p.workspace_class = {at_instant("w", "a.at", class_of_open("w"))}
                AND p.effective_from <= a.at AND (p.effective_until IS NULL OR p.effective_until > a.at)
            GROUP BY a.attribution_id
        )
        SELECT c.attribution_id, b.credit_cents AS balance_cents, c.spending_limit,
               trim_scale(COALESCE(burn.cents_per_hour, 0)) AS burn_cents_per_hour
        FROM balance b
        JOIN cost_center c ON c.attribution_id = b.attribution_id AND c.superseded_at IS NULL
        LEFT JOIN burn ON burn.attribution_id = b.attribution_id
        ORDER BY c.attribution_id
    """


_ALL_PAGE, _CHANGED_PAGE = _page(_ALL), _page(_CHANGED)


def list_standings(
    connection: Connection, *, at: datetime, since: datetime | None, after: str, limit: int
) -> Sequence[AccountStanding]:
    """List up to `limit` accounts beyond the account `after`: the accounts that changed since, or all of them.

    `since` is in the database's own time. An account with a running session changes all the time.
    """
    statement, window = (_ALL_PAGE, {}) if since is None else (_CHANGED_PAGE, {"since": since})
    rows = fetch(connection, statement, at=at, after=after, limit=limit, **window)
    return [AccountStanding(**row._mapping) for row in rows]


def changes_from(connection: Connection, *, overlap: timedelta) -> datetime:
    """Return since when changes may not have been seen by a reader who reads now: the longest transaction ago."""
    moment: datetime = fetch_one(connection, "SELECT clock_timestamp() - :overlap AS at", overlap=overlap).at
    return moment
