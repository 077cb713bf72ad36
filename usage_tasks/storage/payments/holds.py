"""Holds: a row before the call, completed after it, open until it is released."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.errors import NotFoundError
from usage_tasks.domain.holds import PaymentIntentId
from usage_tasks.domain.payments import StripeCustomerId
from usage_tasks.storage.leases import bounded, is_free
from usage_tasks.storage.rows import execute, fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRow:
    """The stored hold; `payment_intent_id` is None until Stripe has answered."""

    attribution_id: AttributionId
    number: int
    payment_intent_id: PaymentIntentId | None
    idempotency_key: str
    currency: str
    customer_id: StripeCustomerId
    confirmed: bool
    released: bool


_HOLD = """
    h.attribution_id, h.number, h.stripe_payment_intent_id AS payment_intent_id, h.idempotency_key, h.currency,
    c.stripe_customer_id AS customer_id, h.confirmed_at IS NOT NULL AS confirmed, h.released_at IS NOT NULL AS released
"""


def reserve_hold(connection: Connection, attribution_id: AttributionId, *, release_at: datetime) -> HoldRow:
    """Store that a hold is about to be asked for, unless one is open; return the open hold, due no sooner than asked.

    Raises NotFoundError for an account without a customer.
    """
    execute(
        connection,
        """
        INSERT INTO payment_hold AS held (attribution_id, number, idempotency_key, currency, release_at)
        SELECT c.attribution_id, n, 'hold:' || c.attribution_id || ':' || n, c.currency, :release_at
        FROM stripe_customer c, LATERAL (
            SELECT COALESCE(max(number), 0) + 1 AS n FROM payment_hold WHERE attribution_id = c.attribution_id
        ) AS next
        WHERE c.attribution_id = :account
        ON CONFLICT (attribution_id) WHERE released_at IS NULL
        DO UPDATE SET release_at = GREATEST(held.release_at, EXCLUDED.release_at)
        """,
        account=attribution_id,
        release_at=release_at,
    )
    statement = f"""
        SELECT {_HOLD} FROM payment_hold h JOIN stripe_customer c USING (attribution_id)
        WHERE h.attribution_id = :account AND h.released_at IS NULL
    """
    rows = fetch(connection, statement, account=attribution_id)
    if not rows:
        raise NotFoundError(f"payment hold: {attribution_id} has no customer in Stripe")
    return HoldRow(**rows[0]._mapping)


def find_hold(
    connection: Connection, attribution_id: AttributionId, payment_intent_id: PaymentIntentId
) -> HoldRow | None:
    """Return an account's hold of an id, released or not."""
    statement = f"""
        SELECT {_HOLD} FROM payment_hold h JOIN stripe_customer c USING (attribution_id)
        WHERE h.attribution_id = :account AND h.stripe_payment_intent_id = :intent
    """
    rows = fetch(connection, statement, account=attribution_id, intent=payment_intent_id)
    return HoldRow(**rows[0]._mapping) if rows else None


def complete_hold(connection: Connection, hold: HoldRow, payment_intent_id: PaymentIntentId) -> bool:
    """Store the id that Stripe gave; return True if this call was the first to."""
    statement = """
        UPDATE payment_hold SET stripe_payment_intent_id = :intent
        WHERE attribution_id = :account AND number = :number AND stripe_payment_intent_id IS NULL
    """
    return _change(connection, statement, hold, intent=payment_intent_id)


def mark_confirmed(connection: Connection, hold: HoldRow, *, at: datetime) -> bool:
    """Store that the card was good for it; return True if this call was the first to."""
    statement = """
        UPDATE payment_hold SET confirmed_at = :at
        WHERE attribution_id = :account AND number = :number AND confirmed_at IS NULL
    """
    return _change(connection, statement, hold, at=at)


def mark_released(connection: Connection, hold: HoldRow, *, at: datetime) -> bool:
    """Settle a hold: nothing is held any more; return True if this call was the first to."""
    statement = """
        UPDATE payment_hold SET released_at = :at, claimed_until = NULL
        WHERE attribution_id = :account AND number = :number AND released_at IS NULL
    """
    return _change(connection, statement, hold, at=at)


def _change(connection: Connection, statement: str, hold: HoldRow, **values: object) -> bool:
    return execute(connection, statement, account=hold.attribution_id, number=hold.number, **values) == 1


def claim_due(connection: Connection, *, at: datetime, limit: int, lease: timedelta) -> Sequence[HoldRow]:
    """Lease up to `limit` holds that are due to be released at `at`, oldest first."""
    statement = f"""
        WITH due AS (
            SELECT attribution_id, number FROM payment_hold
            WHERE released_at IS NULL AND release_at <= :at
                AND {is_free()}
            ORDER BY release_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ), h AS (
            UPDATE payment_hold AS held SET claimed_until = clock_timestamp() + :lease FROM due
            WHERE held.attribution_id = due.attribution_id AND held.number = due.number
            RETURNING held.*
        )
        SELECT {_HOLD} FROM h JOIN stripe_customer c USING (attribution_id) ORDER BY h.release_at
    """
    return [HoldRow(**row._mapping) for row in fetch(connection, statement, at=at, limit=limit, lease=bounded(lease))]
