"""Usage as a person reads it: final sessions, their corrections, and drafts, newest or oldest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.ledger import USAGE_KINDS
from usage_tasks.storage.pricing.rating_sql import RATED
from usage_tasks.storage.pricing.timelines_sql import class_of_open
from usage_tasks.storage.rows import fetch, fetch_one, sql_list


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEntry:
    """One line of usage. A draft is a session that is not in the ledger yet, priced up to the instant asked at."""

    instance_id: UUID
    workspace_id: str
    user_id: UUID
    workspace_class: str
    kind: str
    draft: bool
    credit_cents: int
    effective_at: datetime
    started_at: datetime
    stops_before_start: bool


def _lines(*, of_user: UUID | None) -> str:
    """The CTE `line`, of one user's sessions where one is given.

    A draft takes effect now, or at its stopping time where that has passed. A correction that is not yet posted shows
    as a draft of the difference.
    """
    ran = "SELECT 1 FROM workspace_instance w WHERE w.user_id = :of_user AND w.instance_id"
    of_session, of_entry = (
        ("", "") if of_user is None else (f"AND EXISTS ({ran} = {each}.instance_id)" for each in "se")
    )
    return f"""
    WITH session AS (
        SELECT instance_id, {class_of_open("s")} AS workspace_class, priced_from, price_keys, started_at, revision,
               posted_cents, settled_at,
               LEAST(ended_at, CAST(:at AS timestamptz)) AS until
        FROM open_session s WHERE attribution_id = :account AND started_at <= :at {of_session}
    ), {RATED}, line AS (
        SELECT e.instance_id, e.kind, false AS draft, e.credit_cents, e.effective_at
        FROM ledger_entry e
        WHERE e.attribution_id = :account AND e.kind IN ({sql_list(USAGE_KINDS)})
            AND e.effective_at >= :start AND e.effective_at < :end {of_entry}
        UNION ALL
        SELECT r.instance_id, CASE WHEN r.revision = 1 THEN 'session' ELSE 'adjustment' END, true,
               r.credit_cents - r.posted_cents, GREATEST(r.until, r.started_at, r.settled_at)
        FROM rated r
        WHERE GREATEST(r.until, r.started_at, r.settled_at) >= :start
            AND GREATEST(r.until, r.started_at, r.settled_at) < :end
    )
    """


def summarize(
    connection: Connection,
    account: AttributionId,
    *,
    start: datetime,
    end: datetime,
    at: datetime,
    of_user: UUID | None,
) -> tuple[int, int]:
    """Return the credit cents used in [start, end), by one user if given, and how many entries; drafts included."""
    sums = "SELECT COALESCE(sum(credit_cents), 0)::bigint AS cents, count(*) AS entries FROM line"
    statement = _lines(of_user=of_user) + sums
    row = fetch_one(connection, statement, account=account, start=start, end=end, at=at, of_user=of_user)
    return row.cents, row.entries


def list_page(
    connection: Connection,
    account: AttributionId,
    *,
    start: datetime,
    end: datetime,
    at: datetime,
    order: Literal["ascending", "descending"],
    limit: int,
    offset: int,
    of_user: UUID | None,
) -> Sequence[UsageEntry]:
    """List one page of usage in [start, end), by one user if given, by effective time."""
    direction = "ASC" if order == "ascending" else "DESC"
    statement = f"""
        {_lines(of_user=of_user)}
        SELECT line.*, w.workspace_id, w.user_id, w.workspace_class, w.started_at, w.stops_before_start
        FROM line JOIN workspace_instance w USING (instance_id)
        ORDER BY effective_at {direction}, instance_id {direction}, kind {direction}, draft {direction},
                 credit_cents {direction}
        LIMIT :limit OFFSET :offset
    """
    window = {"start": start, "end": end, "at": at, "limit": limit, "offset": offset}
    rows = fetch(connection, statement, account=account, of_user=of_user, **window)
    return [UsageEntry(**row._mapping) for row in rows]
