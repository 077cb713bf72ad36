"""Usage in a range, split exactly at its edges and at midnights, summed by groups: one statement, a page of rows.

The rule of domain/rating.py as set-based SQL; a property test holds the two equal (tests/ledger/test_usage_report.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.prices import State
from usage_tasks.storage.ledger.account_weeks import entries_reaching
from usage_tasks.storage.ledger.usage_along import along
from usage_tasks.storage.pricing.rating_sql import RATED, seconds_until
from usage_tasks.storage.rows import fetch


class Group(StrEnum):
    """A grouping of usage. A day is a day of UTC; a session has a class and a state in each instant."""

    DAY = "day"
    WORKSPACE_CLASS = "workspace_class"
    STATE = "state"
    USER_ID = "user_id"
    WORKSPACE_ID = "workspace_id"
    ATTRIBUTION_ID = "attribution_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """The usage of sessions in one group. Fields outside of the grouping are None. A session counts in each group."""

    day: date | None = None
    workspace_class: str | None = None
    state: str | None = None
    user_id: UUID | None = None
    workspace_id: str | None = None
    attribution_id: AttributionId | None = None
    credit_cents: int
    seconds: int
    sessions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotals:
    """The totals of the whole range, independent of the page. Each session counts once."""

    rows: int
    credit_cents: int
    seconds: int
    sessions: int


_KEYS: Final = {
    Group.DAY: ("(s.cell AT TIME ZONE 'UTC')::date", "date"),
    Group.WORKSPACE_CLASS: ('s.workspace_class COLLATE "C"', "text"),
    Group.STATE: ('s.state COLLATE "C"', "text"),
    Group.USER_ID: ("s.user_id", "uuid"),
    Group.WORKSPACE_ID: ('s.workspace_id COLLATE "C"', "text"),
    Group.ATTRIBUTION_ID: ("s.attribution_id", "text"),
}
"""Of each group the expression of its key, and its type."""

# A session is open, or its last entry takes effect at its end or later: both are found by account, by an index,
# whatever the history before the range is, and after it where nothing that had begun by then ended.
_CANDIDATES = f"""
    account AS (
        SELECT attribution_id FROM account_balance WHERE latest_effective_at >= :start {{only}}
    ), candidate AS (
        SELECT instance_id FROM open_session WHERE started_at < :end {{only}}
        UNION
        SELECT e.instance_id FROM account a CROSS JOIN LATERAL (
            {entries_reaching("a.attribution_id", since=":start", until=":end")}
        ) AS e
        WHERE e.reaches_back
    ), ran AS (
        SELECT w.instance_id, w.attribution_id, w.user_id, w.workspace_id, w.workspace_class, w.timeline, w.started_at,
               u.ran_until
        FROM candidate JOIN workspace_instance w USING (instance_id),
        LATERAL (SELECT GREATEST(w.started_at, LEAST(w.ended_at, CAST(:at AS timestamptz))) AS ran_until) AS u
        WHERE w.started_at < :end AND w.started_at <= :at
            AND (u.ran_until > :start OR w.started_at >= :start) {{of_user}}
    )
"""

# A cell is the range, or a day of it. A session without a timeline is priced at the end of each cell in which it ran,
# and at the range's start if it ran before. The price at an edge adds to the cell that ends there, and is subtracted
# from the next cell.
_CELLS = {
    True: """
        SELECT d.day AS cell, LEAST(d.day + interval '24 hours', CAST(:end AS timestamptz)) AS edge,
               CASE WHEN d.day < b.last THEN d.day + interval '24 hours' END AS following
        FROM (
            SELECT date_trunc('day', GREATEST(s.started_at, :start), 'UTC') AS first,
                   date_trunc('day', GREATEST(s.started_at, :start, LEAST(s.ran_until, CAST(:end AS timestamptz))
                       - interval '1 microsecond'), 'UTC') AS last
        ) AS b, generate_series(b.first, b.last, interval '24 hours') AS d(day)
        UNION ALL
        SELECT NULL, :start, date_trunc('day', CAST(:start AS timestamptz), 'UTC') WHERE s.started_at < :start
    """,
    False: """
        SELECT CAST(:start AS timestamptz) AS cell, CAST(:end AS timestamptz) AS edge,
               NULL::timestamptz AS following
        UNION ALL
        SELECT NULL, :start, :start WHERE s.started_at < :start
    """,
}

_CUT: Final = (Group.DAY, Group.WORKSPACE_CLASS, Group.STATE)
"""The groups that cut a session into shares; it counts once in each."""


def _statement(groups: Sequence[Group], *, one_account: bool, one_user: bool, paged: bool) -> str:
    only = "AND attribution_id = :account" if one_account else ""
    of_user = "AND w.user_id = :user" if one_user else ""
    names = ", ".join(groups)
    keys = ", ".join(f"{_KEYS[group][0]} AS {group}" for group in groups)
    after = ", ".join(f"CAST(:after_{group} AS {_KEYS[group][1]})" for group in groups)
    return f"""
        WITH {_CANDIDATES.format(only=only, of_user=of_user)},
        session AS (
            SELECT s.attribution_id, s.user_id, s.workspace_id, s.workspace_class, NULL::timestamptz[] AS priced_from,
                   NULL::text[] AS price_keys, s.started_at, c.cell, c.following, LEAST(c.edge, s.ran_until) AS until
            FROM ran s CROSS JOIN LATERAL ({_CELLS[Group.DAY in groups]}) AS c
            WHERE s.timeline IS NULL
        ), {RATED}, {along([_KEYS[group][0] for group in _CUT if group in groups], by_day=Group.DAY in groups)},
        share AS (
            SELECT s.attribution_id, s.user_id, s.workspace_id, s.workspace_class, '{State.RUNNING}' AS state, v.cell,
                   v.sign * s.credit_cents AS credit_cents, v.sign * {seconds_until("s.until")} AS seconds,
                   v.sign > 0 AS counted, v.sign > 0 AND s.following IS NULL AS is_last
            -- OFFSET 0: a session is priced before its cells are told apart, not once a cell.
            FROM (SELECT * FROM rated OFFSET 0) AS s
            CROSS JOIN LATERAL (VALUES (s.cell, 1), (s.following, -1)) AS v(cell, sign)
            WHERE v.cell IS NOT NULL
            UNION ALL
            SELECT * FROM along
        ), grouped AS (
            SELECT {keys}, sum(s.credit_cents)::bigint AS credit_cents, sum(s.seconds)::bigint AS seconds,
                   count(*) FILTER (WHERE s.counted) AS sessions, count(*) FILTER (WHERE s.is_last) AS last_cells
            FROM share s
            GROUP BY {", ".join(str(number) for number in range(1, len(groups) + 1))}
        ), shown AS (
            SELECT {names}, credit_cents, seconds, sessions FROM grouped
            {f"WHERE ({names}) > ({after})" if paged else ""} ORDER BY {names} LIMIT :limit
        ), total AS (
            SELECT count(*) AS total_rows, COALESCE(sum(credit_cents), 0)::bigint AS total_cents,
                   COALESCE(sum(seconds), 0)::bigint AS total_seconds,
                   COALESCE(sum(last_cells), 0)::bigint AS total_sessions
            FROM grouped
        )
        SELECT shown.*, total.* FROM total LEFT JOIN shown ON true
        ORDER BY {", ".join(f"shown.{group}" for group in groups)}
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The scope of a report: one account, or None for all; one user in it, or None for all."""

    account: AttributionId | None
    user_id: UUID | None = None


def sum_usage(
    connection: Connection,
    scope: Scope,
    *,
    start: datetime,
    end: datetime,
    at: datetime,
    groups: Sequence[Group],
    after: Mapping[Group, object] | None,
    limit: int,
) -> tuple[Sequence[UsageRow], UsageTotals]:
    """Sum usage in [start, end) by groups, what runs as of `at`; up to `limit` rows by key, later than `after`.

    The totals are of the whole range.
    """
    statement = _statement(
        groups, one_account=scope.account is not None, one_user=scope.user_id is not None, paged=after is not None
    )
    values: dict[str, object] = {"start": start, "end": end, "at": at, "limit": limit}
    values |= {} if scope.account is None else {"account": scope.account}
    values |= {} if scope.user_id is None else {"user": scope.user_id}
    values |= {f"after_{group}": key for group, key in (after or {}).items()}
    found = fetch(connection, statement, **values)
    total = found[0]
    totals = UsageTotals(
        rows=total.total_rows,
        credit_cents=total.total_cents,
        seconds=total.total_seconds,
        sessions=total.total_sessions,
    )
    shown = (*groups, "credit_cents", "seconds", "sessions")
    rows = [{name: row._mapping[str(name)] for name in shown} for row in found if row.sessions is not None]
    return [UsageRow(**{str(name): value for name, value in row.items()}) for row in rows], totals
