"""Limits of all accounts at once: which levels were crossed, remembered and announced; thresholds of accounts.

The rule of domain/limits.py as set-based SQL; a property test holds the two equal
(tests/limits/test_crossings.py).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.announcements import LEVEL_REACHED, UsageLevelReached
from usage_tasks.domain.limits import Crossing, LimitPolicy
from usage_tasks.storage.ledger.balances import with_balances
from usage_tasks.storage.operations.outbox import announcing, payload_of
from usage_tasks.storage.plans import Plan, planned, run_plan
from usage_tasks.storage.pricing.rating_sql import COST_AT_MOST
from usage_tasks.storage.rows import execute, fetch

# Most accounts are far from their levels. An upper bound of the cost of their open sessions selects the accounts that
# may have reached a level, and only these are rated session by session.
# An account whose cycle has ended is judged after its reset, or after its invoice is booked.
_JUDGED = f"""
    SELECT c.attribution_id, CAST(:at AS timestamptz) AS at
    FROM cost_center c
    LEFT JOIN account_balance b ON b.attribution_id = c.attribution_id
    LEFT JOIN ({COST_AT_MOST}) AS m ON m.attribution_id = c.attribution_id
    LEFT JOIN limit_thresholds own ON own.attribution_id = c.attribution_id
    WHERE c.superseded_at IS NULL AND c.cycle_started_at <= :at AND c.next_billing_at > :at AND (
        b.latest_effective_at > :at OR COALESCE(b.carried_cents, 0) + COALESCE(m.credit_cents, 0)
            >= c.spending_limit * LEAST(100, (COALESCE(own.thresholds, CAST(:thresholds AS int[])))[1])
    )
"""

# Materialized, so that a balance is computed once an account and not once a level.
_LEVELS = """
    standing AS MATERIALIZED (
        SELECT c.attribution_id, c.cycle_started_at, c.spending_limit, b.at, b.credit_cents AS balance_cents,
               COALESCE(own.thresholds, CAST(:thresholds AS int[])) AS thresholds,
               (c.spending_limit + :grace_credits) * 100 + c.spending_limit * :grace_percent AS hard_cents
        FROM cost_center c
        JOIN balance b USING (attribution_id)
        LEFT JOIN limit_thresholds own USING (attribution_id)
        WHERE c.superseded_at IS NULL
    ),
    level AS (
        SELECT s.attribution_id, s.cycle_started_at, s.spending_limit, s.at, s.balance_cents,
               l.crossing, l.percent, l.level_cents
        FROM standing s
        CROSS JOIN LATERAL (
            SELECT 'threshold' AS crossing, t.percent, s.spending_limit * t.percent AS level_cents
            FROM unnest(s.thresholds) AS t(percent)
            WHERE t.percent <> 100 AND s.spending_limit > 0
            UNION ALL
            SELECT 'limit', 100, s.spending_limit * 100
            UNION ALL
            SELECT 'hard_limit', (s.hard_cents / NULLIF(s.spending_limit, 0))::int, s.hard_cents
        ) AS l
        WHERE s.balance_cents >= l.level_cents
    )
"""

_NEW = """
    new AS (
        SELECT attribution_id, cycle_started_at, spending_limit, crossing, level_cents, percent, balance_cents, at
        FROM level
        WHERE NOT EXISTS (
            SELECT 1 FROM limit_crossing held
            WHERE held.attribution_id = level.attribution_id AND held.cycle_started_at = level.cycle_started_at
                AND held.spending_limit = level.spending_limit AND held.crossing = level.crossing
                AND held.level_cents = level.level_cents
        )
    )
"""

_PLAN = f"""
    WITH {with_balances(_JUDGED)}, {_LEVELS}, {_NEW}
    {planned("new", order="attribution_id, level_cents, crossing DESC")}
"""

_NAMES = " ".join(f"WHEN '{crossing}' THEN '{message.name}'" for crossing, message in LEVEL_REACHED.items())
_ANNOUNCED = announcing(
    f"(SELECT *, CASE crossing {_NAMES} END AS name FROM crossed) AS named "
    "ORDER BY attribution_id, level_cents, crossing DESC",
    name="name",
    once_per=(
        "attribution_id",
        "trim_scale(extract(epoch FROM cycle_started_at))",
        "spending_limit",
        "CASE WHEN crossing <> 'limit' THEN level_cents END",
    ),
    payload=payload_of(UsageLevelReached),
)

# Two ticks at once: the second waits for the first's rows and then has none of its own. The anti-join only saves
# attempts for known rows. The outbox's key repeats the crossing's; it is a guard of its own if crossings were pruned
# too early.
_ANNOUNCE = f"""
    WITH {with_balances(_JUDGED)}, {_LEVELS}, {_NEW}, crossed AS (
        INSERT INTO limit_crossing
            (attribution_id, cycle_started_at, spending_limit, crossing, level_cents, percent, balance_cents, at)
        SELECT attribution_id, cycle_started_at, spending_limit, crossing, level_cents, percent, balance_cents, at
        FROM new
        ORDER BY attribution_id, level_cents, crossing DESC
        ON CONFLICT DO NOTHING
        RETURNING *
    ), announced AS (
        {_ANNOUNCED}
    )
    SELECT crossing, count(*) AS crossings FROM crossed GROUP BY crossing
"""


def announce_crossings(connection: Connection, *, at: datetime, policy: LimitPolicy) -> Mapping[Crossing, int]:
    """Announce each level that an account's balance has reached, once a cycle, limit and level; count them by kind."""
    rows = fetch(connection, _ANNOUNCE, at=at, **_parameters(policy))
    return {Crossing(row.crossing): row.crossings for row in rows}


def plan_crossings(connection: Connection, *, at: datetime, policy: LimitPolicy) -> Plan:
    """Return the levels that `announce_crossings` would announce."""
    return run_plan(connection, _PLAN, at=at, **_parameters(policy))


def _parameters(policy: LimitPolicy) -> dict[str, object]:
    return {
        "thresholds": sorted(policy.thresholds),
        "grace_credits": policy.grace.credits,
        "grace_percent": policy.grace.percent,
    }


def find_thresholds(connection: Connection, attribution_id: AttributionId) -> tuple[int, ...] | None:
    """Return an account's own thresholds, in percent; None if it has the installation's."""
    statement = "SELECT thresholds FROM limit_thresholds WHERE attribution_id = :account FOR UPDATE"
    rows = fetch(connection, statement, account=attribution_id)
    return tuple(rows[0].thresholds) if rows else None


def put_thresholds(
    connection: Connection, attribution_id: AttributionId, thresholds: Sequence[int], *, actor: Actor
) -> None:
    """Give an account thresholds of its own, in percent; they are stored in rising order."""
    statement = """
        INSERT INTO limit_thresholds AS held (attribution_id, thresholds, actor)
        VALUES (:account, CAST(:thresholds AS int[]), :actor)
        ON CONFLICT (attribution_id) DO UPDATE
        SET thresholds = EXCLUDED.thresholds, changed_at = clock_timestamp(), actor = EXCLUDED.actor
    """
    execute(connection, statement, account=attribution_id, thresholds=sorted(thresholds), actor=actor)


def drop_thresholds(connection: Connection, attribution_id: AttributionId) -> None:
    """Give an account the installation's thresholds again."""
    execute(connection, "DELETE FROM limit_thresholds WHERE attribution_id = :account", account=attribution_id)
