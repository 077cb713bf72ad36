"""The posted sessions that a price version prices otherwise: what they are to be adjusted by, and their reopening."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.storage.plans import SAMPLE_MAX, Plan, planned
from usage_tasks.storage.rating import RATED
from usage_tasks.storage.rows import fetch_one
from usage_tasks.storage.sessions import ENTRIES

# Only sessions that ran, or ended, while the version was in force can be priced otherwise by it.
_REPRICED = f"""
    WITH session AS (
        SELECT instance_id, attribution_id, workspace_class, started_at, revision + 1 AS revision, posted_revision,
               posted_cents, GREATEST(ended_at, started_at) AS until,
               GREATEST(ended_at, started_at, settled_at) AS effective_at
        FROM workspace_instance
        WHERE workspace_class = :workspace_class AND posted_revision = revision
            AND GREATEST(ended_at, started_at) >= :effective_from
            AND started_at < COALESCE((
                SELECT p.effective_until FROM price_period p
                WHERE p.workspace_class = :workspace_class AND p.effective_from = :effective_from
            ), 'infinity')
    ), {RATED}, repriced AS (SELECT * FROM ({ENTRIES}) AS all_of_them WHERE credit_cents <> 0)
"""

# One join only, by the sessions' key: the planner takes `repriced` for a handful of rows, and a second join of it would
# be rows x rows. In the order in which reports lock; what a report has corrected meanwhile is open already.
_REOPENED = """
    , entry AS (
        UPDATE workspace_instance w SET revision = w.revision + 1, recorded_at = clock_timestamp()
        FROM (SELECT * FROM repriced ORDER BY instance_id) AS r
        WHERE w.instance_id = r.instance_id AND w.posted_revision = w.revision
        RETURNING r.*
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
    """What the adjustments of one account come to."""

    attribution_id: AttributionId
    entries: int
    credit_cents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repricing:
    """The adjustments that follow from a price version, and their sums by account, the largest of both listed."""

    adjustments: Plan
    accounts: int
    by_account: Sequence[AccountSum]


def plan_repricing(connection: Connection, workspace_class: str, *, effective_from: datetime) -> Repricing:
    """Answer what posted sessions would be adjusted by for a version that stands in the table."""
    return _run(connection, _PLAN, workspace_class, effective_from)


def reopen_repriced(connection: Connection, workspace_class: str, *, effective_from: datetime) -> Repricing:
    """Open each posted session that a version prices otherwise; the next posting appends what is answered here."""
    return _run(connection, _REOPEN, workspace_class, effective_from)


def _run(connection: Connection, statement: str, workspace_class: str, effective_from: datetime) -> Repricing:
    row = fetch_one(connection, statement, workspace_class=workspace_class, effective_from=effective_from)
    return Repricing(
        adjustments=Plan(rows=row.rows, credit_cents=row.credit_cents, sample=row.sample),
        accounts=row.accounts,
        by_account=[AccountSum(**each) for each in row.by_account],
    )
