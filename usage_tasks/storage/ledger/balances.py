"""Balances to the second, at any instant: posted, less what is later, plus what is not posted yet, less grants."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, Row

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.credits import CreditCents
from usage_tasks.storage import keys
from usage_tasks.storage.ledger.account_weeks import entries_reaching, later_weeks
from usage_tasks.storage.ledger.grants import AVAILABLE
from usage_tasks.storage.pricing.rating_sql import RATED, has_price
from usage_tasks.storage.pricing.timelines_sql import class_of_open, priced_parts
from usage_tasks.storage.rows import fetch, fetch_one

# Entries that take effect later than an account is asked for, less what the sessions of them had cost by then. An open
# session is less by all that was posted of it anyhow. Weeks in which nothing ended that had begun by then are sums.
_AT = "(SELECT a.at)"
_LATER = f"""
    WITH entry AS MATERIALIZED (
        SELECT instance_id, corrects, reaches_back, credit_cents, starts_at <= a.at AS in_same_week
        FROM ({entries_reaching("a.attribution_id", since=_AT, until=_AT)}) AS e
        WHERE effective_at > a.at
    ), session AS (
        -- Later revisions may tell of a start that is later than the first entry. OFFSET 0: each by its index.
        SELECT w.* FROM (
            SELECT instance_id, bool_or(corrects) AS corrected FROM entry WHERE reaches_back GROUP BY instance_id
        ) AS l
        CROSS JOIN LATERAL (
            SELECT w.instance_id, w.workspace_class, p.priced_from, p.price_keys, w.started_at,
                   LEAST(w.ended_at, a.at) AS until
            FROM workspace_instance w CROSS JOIN LATERAL ({priced_parts("w")}) AS p
            WHERE w.instance_id = l.instance_id AND (w.started_at < a.at OR l.corrected) AND NOT EXISTS (
                SELECT 1 FROM open_session o WHERE o.attribution_id = a.attribution_id AND o.instance_id = w.instance_id
            )
            OFFSET 0
        ) AS w
    ), {RATED}
    SELECT ({later_weeks("a.attribution_id", at=_AT)})
         + (SELECT COALESCE(sum(credit_cents), 0) FROM entry WHERE in_same_week)
         - (
               SELECT COALESCE(sum(e.credit_cents), 0) FROM open_session o CROSS JOIN LATERAL (
                   SELECT credit_cents FROM ledger_entry
                   WHERE attribution_id = a.attribution_id AND effective_at > a.at
                       AND {keys.is_of_session("key", "o.instance_id")}
                   OFFSET 0
               ) AS e
               WHERE o.attribution_id = a.attribution_id AND o.settled_at > a.at AND {has_price("o")}
           )
         - COALESCE(sum(r.credit_cents - (
               SELECT COALESCE(sum(e.credit_cents), 0) FROM ledger_entry e
               WHERE e.attribution_id = a.attribution_id AND e.effective_at <= a.at
                   AND {keys.is_of_session("e.key", "r.instance_id")}
           )), 0)
    FROM rated r
"""


def with_balances(asked: str, *, inlined: bool = False) -> str:
    """Compose the CTEs that end in `balance(attribution_id, at, credit_cents, gross_cents)`.

    `asked` is a query of (attribution_id, at), one row an account; one of constants is better inlined, so that the
    planner sees that there is one account, and groups nothing. `gross_cents` is what is open; `credit_cents` is
    less by what the account's grants would pay of it, were they settled then. A session counts by its price up to
    `at` while it is open or has an entry effective later than `at`; else its entries, all earlier, are its price.
    """
    return f"""
    asked AS {"NOT MATERIALIZED" if inlined else "MATERIALIZED"} ({asked}),
    session AS (
        SELECT a.attribution_id, o.instance_id, {class_of_open("o")} AS workspace_class, o.priced_from,
               o.price_keys, o.started_at, LEAST(o.ended_at, a.at) AS until, o.posted_cents
        FROM asked a JOIN open_session o ON o.attribution_id = a.attribution_id
        WHERE o.started_at < a.at OR o.revision > 1
    ),
    {RATED},
    gross AS MATERIALIZED (
        SELECT a.attribution_id, a.at, (
                   COALESCE(b.carried_cents, 0) + COALESCE(u.credit_cents, 0)
                   - CASE WHEN b.latest_effective_at > a.at THEN ({_LATER}) ELSE 0 END
               )::bigint AS credit_cents
        FROM asked a
        LEFT JOIN account_balance b USING (attribution_id)
        LEFT JOIN (
            SELECT attribution_id, sum(credit_cents - posted_cents) AS credit_cents FROM rated GROUP BY attribution_id
        ) AS u USING (attribution_id)
    ),
    {AVAILABLE},
    balance AS (
        SELECT g.attribution_id, g.at, g.credit_cents - p.paid_cents AS credit_cents, g.credit_cents AS gross_cents
        FROM gross g
        LEFT JOIN available v USING (attribution_id)
        CROSS JOIN LATERAL (
            SELECT GREATEST(0, LEAST(g.credit_cents, COALESCE(v.credit_cents, 0))) AS paid_cents
        ) p
    )
    """


_ASKED_ONE = "SELECT (SELECT CAST(:account AS text)) AS attribution_id, CAST(:at AS timestamptz) AS at"
_ASKED = "SELECT * FROM unnest(CAST(:accounts AS text[]), CAST(:instants AS timestamptz[])) AS t(attribution_id, at)"

_BALANCES = f"""
    WITH {with_balances(_ASKED)}
    SELECT attribution_id, credit_cents, gross_cents FROM balance
"""

_BALANCE = f"WITH {with_balances(_ASKED_ONE, inlined=True)} SELECT credit_cents FROM balance"


def list_gross_balances(
    connection: Connection, asked: Sequence[tuple[AttributionId, datetime]]
) -> Mapping[AttributionId, CreditCents]:
    """Return the open usage of each account at its own instant, before grants. An unknown account has 0."""
    return {row.attribution_id: CreditCents(row.gross_cents) for row in _fetch(connection, asked)}


def list_balances(
    connection: Connection, asked: Sequence[tuple[AttributionId, datetime]]
) -> Mapping[AttributionId, CreditCents]:
    """Return the balance of each account at its own instant, after grants. An unknown account has 0.

    An expired grant pays nothing until it is settled: the caller settles it first.
    """
    return {row.attribution_id: CreditCents(row.credit_cents) for row in _fetch(connection, asked)}


def _fetch(
    connection: Connection, asked: Sequence[tuple[AttributionId, datetime]]
) -> Sequence[Row[tuple[object, ...]]]:
    accounts, instants = [account for account, _ in asked], [at for _, at in asked]
    return fetch(connection, _BALANCES, accounts=accounts, instants=instants)


def get_balance(connection: Connection, attribution_id: AttributionId, *, at: datetime) -> CreditCents:
    """Return one account's balance at an instant, in credit cents, drafts and grants included."""
    return CreditCents(fetch_one(connection, _BALANCE, account=attribution_id, at=at).credit_cents)
