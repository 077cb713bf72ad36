"""The sum of an account's entries per week: a statement about the past can skip much later weeks.

A trigger of the ledger keeps one row for each week with entries. Beside their sum it holds the earliest start of their
sessions: a week whose sessions all began after the instant in question need not be read.
"""

from typing import Final

_WEEK: Final = "interval '168 hours'"  # of UTC: a day there always has 24


def week_of(instant: str) -> str:
    """Write the start of the week that an instant lies in, as an SQL expression."""
    return f"date_trunc('week', {instant}, 'UTC')"


def later_weeks(account: str, *, at: str) -> str:
    """Compose a query of the sum (credit_cents) of the entries of all weeks that start after an instant."""
    return f"""
        SELECT COALESCE(sum(credit_cents), 0) AS credit_cents FROM account_week
        WHERE attribution_id = {account} AND starts_at > {at}
    """


def entries_reaching(account: str, *, since: str, until: str) -> str:
    """Compose a query of entries of an account that take effect at `since` or later, with the start of their week.

    Rows are (starts_at, instance_id, corrects, credit_cents, effective_at, reaches_back). Every entry of a week that
    starts by `until` is there, and each later one of a session that started, or had an entry, by `until`: such an entry
    `reaches_back`, and so may others. `corrects` is true of an adjustment.
    """
    # OFFSET 0: each week by the index of its entries, also if the planner misjudges a long history.
    return f"""
        SELECT k.starts_at, e.instance_id, e.kind = 'adjustment' AS corrects, e.credit_cents, e.effective_at,
               e.instance_id IS NOT NULL AND (
                   e.kind = 'adjustment' OR e.session_started_at IS NULL OR e.session_started_at <= {until}
               ) AS reaches_back
        FROM (
            SELECT starts_at FROM account_week
            WHERE attribution_id = {account} AND starts_at >= {week_of(since)}
                AND (starts_at <= {until} OR reaches_back_to <= {until})
        ) AS k CROSS JOIN LATERAL (
            SELECT instance_id, kind, credit_cents, effective_at, session_started_at FROM ledger_entry
            WHERE attribution_id = {account} AND effective_at >= GREATEST(k.starts_at, {since})
                AND effective_at < k.starts_at + {_WEEK}
            OFFSET 0
        ) AS e
    """
