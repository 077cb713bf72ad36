"""The posted sessions that a price version prices otherwise: the amounts to adjust, and their reopening."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.storage.ledger.posting import ENTRIES, posted_of
from usage_tasks.storage.plans import SAMPLE_MAX, Plan, planned
from usage_tasks.storage.pricing.rating_sql import RATED
from usage_tasks.storage.pricing.timelines_sql import priced_parts
from usage_tasks.storage.rows import fetch_one

# Only sessions that ran, or ended, while the version was in force can be priced otherwise by it.
_REPRICED = f"""
    WITH session AS (
        SELECT w.instance_id, w.attribution_id, w.workspace_class, p.priced_from, p.price_keys, w.started_at,
               e.entries + 1 AS revision, e.credit_cents AS posted_cents, GREATEST(w.ended_at, w.started_at) AS until,
               GREATEST(w.ended_at, w.started_at, e.settled_at) AS effective_at
        FROM workspace_instance w CROSS JOIN LATERAL ({posted_of("w")}) AS e
        CROSS JOIN LATERAL ({priced_parts("w")}) AS p
        WHERE :price_key = ANY(COALESCE(p.price_keys, ARRAY[w.workspace_class])) AND NOT EXISTS (
                SELECT 1 FROM open_session o
                WHERE o.attribution_id = w.attribution_id AND o.instance_id = w.instance_id
            )
            AND GREATEST(w.ended_at, w.started_at) >= :effective_from
            AND w.started_at < COALESCE((
                SELECT p.effective_until FROM price_period p
                WHERE p.workspace_class = :price_key AND p.effective_from = :effective_from
            ), 'infinity')
    ), {RATED}, repriced AS (SELECT * FROM ({ENTRIES}) AS all_of_them WHERE credit_cents <> 0)
"""

# Locked in the order in which reports lock; what a report has corrected meanwhile is open already. A trigger of
# open_session adds the timelines. IS TRUE keeps the
# planner, which takes `repriced` for a handful of rows, from a join of rows x rows.
_REOPENED = f"""
    , held AS (
        SELECT w.attribution_id, w.instance_id, w.workspace_class, w.started_at, w.ended_at, w.final_at
        FROM workspace_instance w WHERE w.instance_id IN (SELECT instance_id FROM repriced)
        ORDER BY w.instance_id FOR UPDATE
    ), opened AS (
        INSERT INTO open_session
            (attribution_id, instance_id, workspace_class, started_at, ended_at, final_at, revision, posted_cents,
             settled_at)
        SELECT h.attribution_id, h.instance_id, h.workspace_class, h.started_at, h.ended_at, h.final_at,
               e.entries + 1, e.credit_cents, e.settled_at
        FROM held h CROSS JOIN LATERAL ({posted_of("h")}) AS e
        ON CONFLICT DO NOTHING
        RETURNING instance_id
    ), entry AS (
        SELECT * FROM repriced WHERE (instance_id IN (SELECT instance_id FROM opened)) IS TRUE
    )
"""

_ANSWER = f"""
    , account AS (
        SELECT attribution_id, count(*) AS entries, sum(credit_cents)::bigint AS credit_cents
        FROM entry GROUP BY attribution_id
    )
    SELECT plan.*, (SELECT count(*) FROM account) AS accounts,
           (SELECT COALESCE(jsonb_agg(to_jsonb(shown)), '[]') FROM (
               SELECT * FROM account ORDER BY abs(credit_cents) DESC, attribution_id LIMIT {SAMPLE_MAX}
           ) AS shown) AS by_account
    FROM ({planned("entry", order="abs(credit_cents) DESC, attribution_id, key", money=True)}) AS plan
"""

_PLAN = f"{_REPRICED}, entry AS (SELECT * FROM repriced) {_ANSWER}"
_REOPEN = f"{_REPRICED} {_REOPENED} {_ANSWER}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSum:
    """The sum of one account's adjustments."""

    attribution_id: AttributionId
    entries: int
    credit_cents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repricing:
    """The adjustments that follow from a price version, and their sums by account, the largest of both listed."""

    adjustments: Plan
    accounts: int
    by_account: Sequence[AccountSum]


def plan_repricing(connection: Connection, price_key: str, *, effective_from: datetime) -> Repricing:
    """Return the adjustments of posted sessions for a version that is in the table."""
    return _run(connection, _PLAN, price_key, effective_from)


def reopen_repriced(connection: Connection, price_key: str, *, effective_from: datetime) -> Repricing:
    """Open each posted session that a version prices otherwise; the next posting appends what is answered here."""
    return _run(connection, _REOPEN, price_key, effective_from)


def _run(connection: Connection, statement: str, price_key: str, effective_from: datetime) -> Repricing:
    row = fetch_one(connection, statement, price_key=price_key, effective_from=effective_from)
    return Repricing(
        adjustments=Plan(rows=row.rows, credit_cents=row.credit_cents, sample=row.sample),
        accounts=row.accounts,
        by_account=[AccountSum(**each) for each in row.by_account],
    )
