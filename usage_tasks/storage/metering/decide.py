"""Meter reports: the absolute quantity that Stripe is to know of each paying account, one row a change.

A report is a row before it is a call. This module decides which rows are written; storage/metering/queue.py leases and
settles them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.credits import CENTS_PER_CREDIT, CreditCents
from usage_tasks.storage.ledger.balances import with_balances
from usage_tasks.storage.metering.queue import EARLY
from usage_tasks.storage.plans import Plan, planned, run_plan
from usage_tasks.storage.rows import fetch, fetch_one

# Accounts on stripe with an open subscription that Stripe has not ended by :as_of, nothing parked, and no invoice that
# took effect after :at: the balance before an invoice, reported in the period after it, would bill that invoice again.
# Reports dated after Stripe's end have no effect; the closing quantity of the last draft is dated before it.
_PAYING = """
    SELECT c.attribution_id, CAST(:at AS timestamptz) AS at
    FROM cost_center c
    JOIN stripe_subscription s ON s.attribution_id = c.attribution_id
        AND s.ended_at IS NULL AND s.stripe_subscription_id IS NOT NULL
        AND (s.stripe_ended_at IS NULL OR s.stripe_ended_at > :as_of)
    WHERE c.superseded_at IS NULL AND c.billing_strategy = 'stripe'
        AND (CAST(:only AS text) IS NULL OR c.attribution_id = :only)
        AND NOT EXISTS (SELECT 1 FROM meter_report p WHERE p.attribution_id = c.attribution_id AND p.state = 'parked')
        AND NOT EXISTS (
            SELECT 1 FROM stripe_customer p WHERE p.attribution_id = c.attribution_id AND p.parked_at IS NOT NULL
        )
        AND NOT EXISTS (
            SELECT 1 FROM ledger_entry e
            WHERE e.attribution_id = c.attribution_id AND e.kind = 'invoice' AND e.effective_at > :at
        )
"""


def _told(as_of: str) -> str:
    """Compose the CTEs `period` and `told` (last reported quantities) over a CTE `asked a`, for months until `as_of`.

    A cycle stays until its invoice is booked, so `period` has the months from the first month without a booked
    invoice to the month that holds `as_of`, by the rule of domain/cycles.py. Stripe bills the last
    reported quantity of each ended month, so it must not be reported again; a new report is compared with that of the
    last month.
    """
    return f"""
    period AS (
        SELECT c.attribution_id, {as_of} AS as_of, c.cycle_anchor_at + n * interval '1 month' AS starts_at,
               c.cycle_anchor_at + (n + 1) * interval '1 month' AS ends_at
        FROM asked a JOIN cost_center c ON c.attribution_id = a.attribution_id AND c.superseded_at IS NULL
        CROSS JOIN generate_series(
            c.cycle_number,
            c.cycle_number + 1 + (extract(epoch FROM {as_of} - c.cycle_started_at) / 86400 / 28)::int
        ) AS n
        WHERE c.cycle_anchor_at + n * interval '1 month' <= {as_of}
    ), told AS (
        SELECT p.attribution_id, p.starts_at, p.ends_at <= p.as_of AS ended, COALESCE((
            SELECT r.quantity FROM meter_report r
            WHERE r.attribution_id = p.attribution_id AND r.as_of >= p.starts_at AND r.as_of < p.ends_at
                AND r.as_of <= p.as_of AND r.state <> 'dropped'
            ORDER BY r.as_of DESC LIMIT 1
        ), 0) AS quantity
        FROM period p
    )
    """


def _desired(asked: str) -> str:
    """Compose the CTEs that end in `desired`: the quantity to report per account at :as_of, and the last reported."""
    return f"""
    {with_balances(asked)}, {_told("CAST(:as_of AS timestamptz)")}, desired AS (
        -- Grouped and not joined: where the planner knows nothing of the tables yet, it would join row by row.
        SELECT attribution_id, known_quantity, period_starts_at,
               GREATEST(0, ceil(credit_cents / 100.0) - billed_quantity)::bigint AS quantity
        FROM (
            SELECT attribution_id, max(credit_cents) AS credit_cents,
                   COALESCE(sum(quantity) FILTER (WHERE ended), 0) AS billed_quantity,
                   COALESCE(sum(quantity) FILTER (WHERE NOT ended), 0) AS known_quantity,
                   max(starts_at) FILTER (WHERE NOT ended) AS period_starts_at
            FROM (
                SELECT attribution_id, credit_cents, NULL::bigint AS quantity, NULL::boolean AS ended,
                       NULL::timestamptz AS starts_at
                FROM balance
                UNION ALL
                SELECT attribution_id, NULL, quantity, ended, starts_at FROM told
            ) AS side
            GROUP BY attribution_id
            HAVING count(credit_cents) = 1 AND count(ended) > 0
        ) AS account
    )
    """


_CHANGES = f"""
    WITH {_desired(_PAYING)}, change AS (
        SELECT attribution_id, CAST(:as_of AS timestamptz) AS as_of,
               attribution_id || ':' || extract(epoch FROM CAST(:as_of AS timestamptz))::bigint AS identifier, quantity,
               period_starts_at
        FROM desired d
        WHERE quantity <> known_quantity
            AND (:closing OR NOT EXISTS (
                SELECT 1 FROM meter_report r WHERE r.attribution_id = d.attribution_id AND r.as_of > :as_of
            ))
    )
"""

# Of one period only the last report matters: earlier reports that nobody has claimed are not sent any more. A report
# that waits for Stripe's clock is sent: the new report is even later for that clock, and none would ever be sent.
_REPORT_CHANGES = f"""
    {_CHANGES}, added AS (
        INSERT INTO meter_report (attribution_id, as_of, identifier, quantity, period_starts_at)
        SELECT attribution_id, as_of, identifier, quantity, period_starts_at FROM change
        ORDER BY attribution_id
        ON CONFLICT DO NOTHING
        RETURNING attribution_id, as_of, period_starts_at
    ), superseded AS (
        UPDATE meter_report AS older SET state = 'dropped', error = 'superseded'
        FROM added
        WHERE older.attribution_id = added.attribution_id AND older.period_starts_at = added.period_starts_at
            AND older.as_of < added.as_of AND older.state = 'pending' AND older.claimed_until IS NULL
            AND (:closing OR NOT starts_with(COALESCE(older.error, ''), '{EARLY}'))
    )
    SELECT count(*) AS reports FROM added
"""

_PLAN = f"""
    {_CHANGES}, new AS (
        SELECT attribution_id, as_of, identifier, quantity FROM change c
        WHERE NOT EXISTS (
            SELECT 1 FROM meter_report r
            WHERE (r.attribution_id, r.as_of) = (c.attribution_id, c.as_of) OR r.identifier = c.identifier
        )
    )
    {planned("new", order="attribution_id")}
"""


def report_changes(
    connection: Connection,
    *,
    at: datetime,
    as_of: datetime,
    closing: bool = False,
    only: AttributionId | None = None,
) -> int:
    """Add a report for every paying account whose whole credits at `at` differ from the last report of its period.

    `as_of` is the report's timestamp, whole seconds, `at` or just before it. A period without a report counts as 0. The
    quantity reported for an ended period is billed by its invoice, booked or not, and is not reported again. A closing
    report may be older than others; any other report is later than the one before it. An account has one report per
    instant: if two would fall on the same second, the next run reports the remaining difference. Return the number of
    reports added.
    """
    row = fetch_one(connection, _REPORT_CHANGES, at=at, as_of=as_of, closing=closing, only=only)
    return int(row.reports)


def plan_changes(connection: Connection, *, at: datetime, as_of: datetime) -> Plan:
    """Return the reports that `report_changes` would add."""
    return run_plan(connection, _PLAN, at=at, as_of=as_of, closing=False, only=None)


def list_awaiting_invoice(
    connection: Connection, asked: Sequence[tuple[AttributionId, datetime]]
) -> Mapping[AttributionId, CreditCents]:
    """Return per account the quantity reported for periods that ended by an instant and whose invoice is not booked."""
    statement = f"""
        WITH asked AS (
            SELECT * FROM unnest(CAST(:accounts AS text[]), CAST(:instants AS timestamptz[])) AS t(attribution_id, at)
        ), {_told("a.at")}
        SELECT t.attribution_id, sum(t.quantity)::bigint * {CENTS_PER_CREDIT} AS credit_cents
        FROM told t JOIN cost_center c ON c.attribution_id = t.attribution_id AND c.superseded_at IS NULL
        WHERE t.ended AND c.billing_strategy = 'stripe'
        GROUP BY t.attribution_id
    """
    accounts, instants = [account for account, _ in asked], [at for _, at in asked]
    rows = fetch(connection, statement, accounts=accounts, instants=instants)
    return {row.attribution_id: CreditCents(row.credit_cents) for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """The quantity of an account's period by the ledger, and the reported one, in credits."""

    ledger: int
    told: int


def list_owed(
    connection: Connection, accounts: Sequence[AttributionId], *, at: datetime
) -> Mapping[AttributionId, Owed]:
    """Return the owed and the reported quantity of accounts at an instant, whether they can be billed or not."""
    asked = """
        SELECT u.attribution_id, CAST(:as_of AS timestamptz) AS at
        FROM unnest(CAST(:accounts AS text[])) AS u(attribution_id)
    """
    statement = f"WITH {_desired(asked)} SELECT attribution_id, quantity, known_quantity FROM desired"
    rows = fetch(connection, statement, as_of=at, accounts=list(accounts))
    return {row.attribution_id: Owed(ledger=int(row.quantity), told=int(row.known_quantity)) for row in rows}
