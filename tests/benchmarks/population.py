"""Large populations of sessions, made by the database itself."""

from datetime import datetime

from sqlalchemy import Connection, text

from tests.factories import DAY, START, record, session_report
from usage_tasks.domain.accounts import AttributionId

NOW: datetime = START + 200 * DAY

_SESSIONS = """
    INSERT INTO workspace_instance
        (instance_id, attribution_id, user_id, workspace_id, workspace_class, started_at, stopped_at, observed_at,
         last_seen_at)
    SELECT md5(:tag || n)::uuid, 'team:' || md5('account' || n % :accounts)::uuid, md5('user' || n % 997)::uuid,
           'ws-' || n, (ARRAY['small', 'medium', 'large', 'xlarge'])[1 + n % 4],
           CAST(:started AS timestamptz) + n % 86400 * interval '1 second',
           CASE WHEN :stopped THEN
               CAST(:started AS timestamptz) + (n % 86400 + 60 + n % 7200) * interval '1 second' END,
           CAST(:started AS timestamptz), CAST(:started AS timestamptz)
    FROM generate_series(1, :count) AS n
"""

# Spread evenly; most run for up to two hours, every thousandth for nine days.
_YEARS = """
    INSERT INTO workspace_instance
        (instance_id, attribution_id, user_id, workspace_id, workspace_class, started_at, stopped_at, observed_at,
         last_seen_at)
    SELECT md5(:tag || n)::uuid, 'team:' || md5(:tag || n % :accounts)::uuid, md5('user' || n % 997)::uuid,
           'ws-' || n, (ARRAY['small', 'medium', 'large', 'xlarge'])[1 + n % 4], t.at,
           t.at + CASE WHEN n % 1000 = 0 THEN interval '9 days' ELSE (60 + n % 7200) * interval '1 second' END,
           t.at, t.at
    FROM generate_series(1, :count) AS n
    CROSS JOIN LATERAL (
        SELECT CAST(:now AS timestamptz) - interval '10 days' - (:count - n) * CAST(:step AS interval) AS at
    ) AS t
"""

_COST_CENTERS = """
    INSERT INTO cost_center (attribution_id, version, billing_strategy, spending_limit, cycle_anchor_at, cycle_number,
                             cycle_started_at, next_billing_at, actor)
    SELECT 'team:' || md5('account' || n)::uuid, 1, 'other', 1000000, :at, 0, :at,
           CAST(:at AS timestamptz) + interval '1 month', 'service:tests'
    FROM generate_series(0, :accounts - 1) AS n
"""


def add_sessions(
    connection: Connection, tag: str, *, count: int, accounts: int, started_at: datetime, stopped: bool
) -> None:
    """Insert `count` sessions over `accounts` accounts, spread over a day and the four classes."""
    connection.execute(
        text(_SESSIONS),
        {"tag": tag, "count": count, "accounts": accounts, "started": started_at, "stopped": stopped},
    )


def add_cost_centers(connection: Connection, *, accounts: int) -> None:
    """Open the accounts of `add_sessions`, far from their limits."""
    connection.execute(text(_COST_CENTERS), {"accounts": accounts, "at": NOW - DAY})


def add_years(connection: Connection, tag: str, *, count: int, accounts: int, years: int) -> AttributionId:
    """Insert sessions that all stopped before `NOW`, spread over years; return the first of their accounts."""
    step = years * 365 * DAY / count
    values = {"tag": tag, "count": count, "accounts": accounts, "now": NOW, "step": step}
    connection.execute(text(_YEARS), values)
    found: AttributionId = connection.execute(text("SELECT 'team:' || md5(:tag || 0)::uuid"), {"tag": tag}).scalar_one()
    return found


def add_running(connection: Connection, account: AttributionId, *, count: int) -> None:
    """Insert sessions of one account that have run since the day before `NOW`."""
    reports = [session_report(attribution_id=account, started_at=NOW - DAY) for _ in range(count)]
    record(connection, *reports)
