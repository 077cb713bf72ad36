"""A long history in every table that grows, of a few accounts, with nothing open.

A look at the present may not read it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text

ACCOUNTS: Final = 5
_SPAN: Final = "interval '24 days'"

_ACCOUNT: Final = f"'team:' || md5('account' || n % {ACCOUNTS})::uuid"
# The rows of one call are spread over the time before its end.
_AT: Final = f"CAST(:until AS timestamptz) - {_SPAN} * (CAST(:last AS int) - n) / CAST(:last - :first + 1 AS int)"

# The n-th row, its instant, and in turn its account and its job.
_PLANT: Final[Mapping[str, str]] = {
    "job_run": """
        (job, slot, started_at, finished_at, attempts, outcome)
        SELECT job, at, at, at + interval '1 second', 1, CASE WHEN k = 2 OR n % 10 = 0 THEN 'failed' ELSE 'done' END
    """,
    "outbox": """
        (key, task, payload, created_at, dispatched_at)
        SELECT 'k' || n, 'server.usage_limit_reached', '{"attribution_id": "team:x"}', at, at
    """,
    "stripe_event": """
        (event_id, type, object_id, created_at, received_at, state, applied_at, outcome)
        SELECT 'evt_' || n, 'invoice.paid', 'in_' || n, at, at, 'applied', at, 'booked'
    """,
    "limit_crossing": """
        (attribution_id, cycle_started_at, spending_limit, crossing, level_cents, percent, balance_cents, at)
        SELECT account, at, 500, 'limit', 50000, 100, 50000, at
    """,
    "audit": "(at, actor, action, attribution_id, details) SELECT at, 'service:tests', 'told', account, '{}'",
    "meter_report": """
        (attribution_id, as_of, identifier, quantity, state, accepted_at, period_starts_at)
        SELECT account, at, 'id' || n, 1, 'accepted', at, at
    """,
    "stripe_invoice": """
        (attribution_id, stripe_invoice_id, stripe_subscription_id, status, credit_cents, currency, total, amount_due,
         amount_paid, amount_remaining, attempts, period_start, period_end, created_at, finalized_at, paid_at,
         fetched_at, checked_at)
        SELECT account, 'in_' || n, 'sub_' || n, 'paid', 1, 'eur', 1, 1, 1, 0, 1, at, at, at, at, at, at, at
    """,
    "stripe_action": """
        (attribution_id, operation, object_id, number, idempotency_key, actor, requested_at, settled_at)
        SELECT account, 'finalize_invoice', 'in_' || n, 1, 'key' || n, 'service:tests', at, at
    """,
    "payment_hold": """
        (attribution_id, number, idempotency_key, currency, release_at, released_at)
        SELECT account, n, 'key' || n, 'eur', at, at
    """,
    "stripe_subscription": """
        (attribution_id, number, stripe_subscription_id, idempotency_key, price_id, ended_at, checked_at)
        SELECT account, n, 'sub_' || n, 'key' || n, 'price_1', at, at
    """,
    "stripe_dispute": """
        (attribution_id, stripe_dispute_id, status, reason, amount, currency, created_at)
        SELECT account, 'du_' || n, 'won', 'fraudulent', 1, 'eur', at
    """,
    "stripe_refund": """
        (attribution_id, stripe_refund_id, status, amount, currency, created_at)
        SELECT account, 're_' || n, 'succeeded', 1, 'eur', at
    """,
    "cost_center": """
        (attribution_id, version, billing_strategy, spending_limit, cycle_anchor_at, cycle_number, cycle_started_at,
         next_billing_at, superseded_at, actor)
        SELECT account, n, 'other', 500, at, 0, at, at + interval '1 month', at, 'service:tests'
    """,
    "credit_grant": """
        (attribution_id, number, key, priority, amount_cents, effective_at, expires_at, description, actor, closed_at)
        SELECT account, n, 'g' || n, 1, 1, at, at + interval '1 hour', 'a gift', 'service:tests', at
    """,
    "workspace_instance": """
        (instance_id, attribution_id, user_id, workspace_id, workspace_class, started_at, stopped_at, observed_at,
         last_seen_at, source, source_seen_at)
        SELECT md5('i' || n)::uuid, account, md5('u')::uuid, 'ws', 'small', at, at + interval '1 minute', at, at,
               'cluster', at
    """,
}

_CUSTOMERS: Final = f"""
    INSERT INTO stripe_customer (attribution_id, stripe_customer_id, currency, billing_creator_user_id, idempotency_key)
    SELECT {_ACCOUNT}, 'cus_' || n, 'eur', 'somebody', 'key' || n FROM generate_series(1, {ACCOUNTS}) AS n
"""  # noqa: S608
_ROWS: Final = f"""
    SELECT n, {_ACCOUNT} AS account, {_AT} AS at, job, k
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n
    JOIN unnest(CAST(:jobs AS text[])) WITH ORDINALITY AS j(job, k) ON n % cardinality(CAST(:jobs AS text[])) = k - 1
"""  # noqa: S608

GROWING: Final = frozenset({*_PLANT, "ledger_entry"})


def plant_customers(connection: Connection) -> None:
    """Add the accounts that all of it belongs to."""
    connection.execute(text(_CUSTOMERS))


def plant_history(connection: Connection, jobs: Sequence[str], *, first: int, last: int, until: datetime) -> None:
    """Add rows of these numbers to each table that grows. The second of the jobs has only ever failed.

    Sessions are left to be posted.
    """
    values = {"first": first, "last": last, "until": until, "jobs": list(jobs)}
    for table, columns in _PLANT.items():
        connection.execute(text(f"INSERT INTO {table} {columns} FROM ({_ROWS}) AS planted"), values)
