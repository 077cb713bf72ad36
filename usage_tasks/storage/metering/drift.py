"""The input of a drift report: each paying account's latest report that Stripe has had time to count."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.drift import MeterStanding
from usage_tasks.storage.rows import fetch

# Reports that were dropped and never sent are unknown to Stripe.
_SENT_OR_TO_BE = "NOT (n.state = 'dropped' AND n.attempts = 0 AND n.resends = 0)"

_STANDINGS = f"""
    SELECT c.attribution_id, s.stripe_customer_id AS customer_id, c.cycle_started_at,
           u.stripe_subscription_id IS NOT NULL AS subscribed, u.stripe_ended_at IS NOT NULL AS ending,
           s.parked_at IS NOT NULL OR EXISTS (
               SELECT 1 FROM meter_report p WHERE p.attribution_id = c.attribution_id AND p.state = 'parked'
           ) AS parked,
           r.identifier, r.as_of, COALESCE(r.quantity, 0) AS quantity,
           (SELECT min(n.as_of) FROM meter_report n
            WHERE n.attribution_id = c.attribution_id AND {_SENT_OR_TO_BE}
                AND n.as_of > COALESCE(r.as_of, c.cycle_started_at - interval '1 microsecond')) AS next_as_of,
           NOT EXISTS (
               SELECT 1 FROM meter_report n
               WHERE n.attribution_id = c.attribution_id AND n.as_of > r.as_of AND n.state <> 'dropped'
           ) AS latest
    FROM cost_center c
    LEFT JOIN stripe_customer s USING (attribution_id)
    LEFT JOIN stripe_subscription u ON u.attribution_id = c.attribution_id AND u.ended_at IS NULL
    LEFT JOIN LATERAL (
        SELECT m.identifier, m.as_of, m.quantity FROM meter_report m
        WHERE m.attribution_id = c.attribution_id AND m.state = 'accepted' AND m.as_of >= c.cycle_started_at
            AND m.accepted_at <= clock_timestamp() - CAST(:settled_for AS interval)
        ORDER BY m.as_of DESC LIMIT 1
    ) r ON true
    WHERE c.superseded_at IS NULL AND c.billing_strategy = 'stripe' AND c.cycle_started_at <= :at
        AND c.attribution_id > :after
        AND (NOT :doubted OR EXISTS (
            SELECT 1 FROM meter_report d WHERE d.attribution_id = c.attribution_id AND d.doubted_at IS NOT NULL))
    ORDER BY c.attribution_id LIMIT :limit
"""


def list_standings(
    connection: Connection,
    *,
    at: datetime,
    settled_for: timedelta,
    doubted: bool,
    after: AttributionId | str,
    limit: int,
) -> Sequence[MeterStanding]:
    """List the paying accounts by name, from behind one of them; with `doubted` only those Stripe may not have counted.

    A report counts as settled so long after Stripe took it: its summaries follow its events after a while.
    """
    rows = fetch(connection, _STANDINGS, at=at, settled_for=settled_for, doubted=doubted, after=after, limit=limit)
    return [MeterStanding(**row._mapping) for row in rows]
