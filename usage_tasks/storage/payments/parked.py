"""The accounts that get no reports until somebody releases them: for a report, or for how they are subscribed.

A report that failed for good is parked where it stands (meter_queue.py). How an account is subscribed in Stripe is
learnt when something is looked up there, and kept with its customer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.announcements import AccountParked
from usage_tasks.domain.payments import StripeCustomerId
from usage_tasks.storage.operations.audit import auditing
from usage_tasks.storage.operations.outbox import announcing, payload_of
from usage_tasks.storage.rows import execute, fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedAccount:
    """An account that gets no reports, and why; with the report that it is parked for, if it is for one."""

    attribution_id: AttributionId
    reason: str | None
    parked_at: datetime
    as_of: datetime | None
    quantity: int | None


def list_parked(connection: Connection, *, limit: int, after: str = "") -> Sequence[ParkedAccount]:
    """List the parked accounts by name, from behind one of them."""
    statement = """
        SELECT attribution_id, reason, parked_at, as_of, quantity FROM (
            SELECT attribution_id, error AS reason, parked_at, as_of, quantity FROM meter_report WHERE state = 'parked'
            UNION ALL
            SELECT attribution_id, parked_reason, parked_at, NULL, NULL FROM stripe_customer
            WHERE parked_at IS NOT NULL
        ) AS parked
        WHERE attribution_id > :after ORDER BY attribution_id, parked_at LIMIT :limit
    """
    return [ParkedAccount(**row._mapping) for row in fetch(connection, statement, limit=limit, after=after)]


_ANNOUNCED = announcing(
    "parked",
    name=f"'{AccountParked.name}'",
    once_per=("attribution_id", "'subscriptions'", "extract(epoch FROM parked_at)"),
    payload=payload_of(
        AccountParked, {"reason": "parked_reason", "quantity": "NULL", "as_of": "NULL", "at": "parked_at"}
    ),
)
_NOTED = auditing(
    "parked",
    action="stripe_customer.parked",
    at="parked_at",
    details="jsonb_build_object('reason', parked_reason)",
)

_PUT_LOOK = f"""
    WITH settled AS (
        UPDATE stripe_customer AS held
        SET looked_at = :looked_at, parked_reason = COALESCE(:reason, held.parked_reason),
            parked_at = CASE WHEN COALESCE(:reason, former.parked_reason) IS NOT DISTINCT FROM former.parked_reason
                             THEN held.parked_at ELSE clock_timestamp() END
        FROM (
            SELECT attribution_id, parked_reason FROM stripe_customer
            WHERE stripe_customer_id = :customer FOR UPDATE
        ) AS former
        WHERE held.attribution_id = former.attribution_id
            AND COALESCE(held.looked_at, '-infinity') <= CAST(:looked_at AS timestamptz)
        RETURNING held.attribution_id, held.parked_at, held.parked_reason,
                  held.parked_reason IS DISTINCT FROM former.parked_reason AS is_new
    ), parked AS (
        SELECT attribution_id, parked_at, parked_reason FROM settled WHERE is_new
    ), announced AS (
        {_ANNOUNCED}
    ), noted AS (
        {_NOTED}
    )
    SELECT attribution_id FROM parked
"""


def put_look(
    connection: Connection,
    customer_id: StripeCustomerId,
    *,
    reason: str | None,
    looked_at: datetime,
    actor: Actor,
) -> AttributionId | None:
    """Store the result of a look at a customer's subscriptions, unless a later one is stored.

    Returns the account that is parked now, or None. No reason releases no account: only a release does. A changed
    reason is announced as a new one. A parked account is announced and audited in this statement.
    """
    rows = fetch(connection, _PUT_LOOK, customer=customer_id, reason=reason, looked_at=looked_at, actor=actor)
    return rows[0].attribution_id if rows else None


def find_parked_customer(connection: Connection, attribution_id: AttributionId) -> StripeCustomerId | None:
    """Return the customer of an account that is parked for how it is subscribed; None for any other."""
    statement = """
        SELECT stripe_customer_id FROM stripe_customer WHERE attribution_id = :account AND parked_at IS NOT NULL
    """
    rows = fetch(connection, statement, account=attribution_id)
    return rows[0].stripe_customer_id if rows else None


def unpark_customer(connection: Connection, customer_id: StripeCustomerId) -> bool:
    """Let a customer's account go that was parked for how it is subscribed; return True if this call did."""
    statement = """
        UPDATE stripe_customer SET parked_at = NULL, parked_reason = NULL
        WHERE stripe_customer_id = :customer AND parked_at IS NOT NULL
    """
    return execute(connection, statement, customer=customer_id) == 1
