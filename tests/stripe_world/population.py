"""Many paying accounts at once, written by the database itself; only their customers are made in Stripe's stand-in."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, text

from usage_tasks.domain.accounts import AttributionId

_PAYING = """
    WITH given AS (
        SELECT t.account, t.customer
        FROM unnest(CAST(:accounts AS text[]), CAST(:customers AS text[])) AS t(account, customer)
    ), customers AS (
        INSERT INTO stripe_customer
            (attribution_id, stripe_customer_id, currency, billing_creator_user_id, idempotency_key)
        SELECT account, customer, 'usd', 'creator', 'customer-' || account FROM given
    ), subscriptions AS (
        INSERT INTO stripe_subscription (attribution_id, number, stripe_subscription_id, idempotency_key, price_id)
        SELECT account, 1, 'sub-' || account, 'subscription-' || account, 'price' FROM given
    )
    INSERT INTO cost_center (attribution_id, version, billing_strategy, spending_limit, cycle_anchor_at, cycle_number,
                             cycle_started_at, next_billing_at, actor)
    SELECT account, 1, 'stripe', 1000000, :at, 0, :at, CAST(:at AS timestamptz) + interval '1 month', 'service:tests'
    FROM given
"""
_CHARGE = """
    INSERT INTO ledger_entry (attribution_id, key, kind, credit_cents, effective_at, description)
    SELECT attribution_id, 'note-' || extract(epoch FROM CAST(:at AS timestamptz)), 'credit_note', :cents, :at, 'test'
    FROM stripe_customer ORDER BY attribution_id
"""


def add_paying(connection: Connection, customers: Mapping[AttributionId, str], *, at: datetime) -> None:
    """Let accounts pay by these customers of Stripe's, from an instant on."""
    given = {"accounts": list(customers), "customers": list(customers.values()), "at": at}
    connection.execute(text(_PAYING), given)


def charge_all(connection: Connection, cents: int, *, at: datetime) -> None:
    """Charge every customer's account `cents`."""
    connection.execute(text(_CHARGE), {"cents": cents, "at": at})
