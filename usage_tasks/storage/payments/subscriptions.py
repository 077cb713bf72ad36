"""Subscriptions as Stripe has them: whose they are, how they stand, and whether their last invoice is waited for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.payments import StripeCustomerId, StripeInvoiceId, StripeSubscriptionId, SubscriptionStanding
from usage_tasks.storage.payments.customers import SUBSCRIPTION, SubscriptionRow
from usage_tasks.storage.rows import execute, fetch


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSubscription:
    """One of our subscriptions as stored; it is open until `ended_at`."""

    attribution_id: AttributionId
    subscription_id: StripeSubscriptionId
    status: str | None
    stripe_ended_at: datetime | None
    last_invoice_id: StripeInvoiceId | None
    ended_at: datetime | None


_KNOWN = "attribution_id, stripe_subscription_id AS subscription_id, status, stripe_ended_at, last_invoice_id, ended_at"


def find_subscription(connection: Connection, subscription_id: StripeSubscriptionId) -> KnownSubscription | None:
    """Return one of our subscriptions, or None if it is not ours."""
    statement = f"SELECT {_KNOWN} FROM stripe_subscription WHERE stripe_subscription_id = :subscription"
    rows = fetch(connection, statement, subscription=subscription_id)
    return KnownSubscription(**rows[0]._mapping) if rows else None


def find_open(connection: Connection, account: AttributionId) -> KnownSubscription | None:
    """Return an account's open subscription, if Stripe has answered for it."""
    statement = f"""
        SELECT {_KNOWN} FROM stripe_subscription
        WHERE attribution_id = :account AND ended_at IS NULL AND stripe_subscription_id IS NOT NULL
    """
    rows = fetch(connection, statement, account=account)
    return KnownSubscription(**rows[0]._mapping) if rows else None


def list_ours(
    connection: Connection, subscription_ids: Sequence[StripeSubscriptionId]
) -> frozenset[StripeSubscriptionId]:
    """List those of the subscriptions that are ours."""
    statement = """
        SELECT stripe_subscription_id AS id FROM stripe_subscription
        WHERE stripe_subscription_id = ANY(CAST(:ids AS text[]))
    """
    return frozenset(row.id for row in fetch(connection, statement, ids=subscription_ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """A subscription that was asked of Stripe, whose answer is not stored; `waited` is for how long."""

    row: SubscriptionRow
    waited: timedelta


def find_reserved(connection: Connection, customer_id: StripeCustomerId) -> Reserved | None:
    """Return the subscription that was asked for a customer and that Stripe has not answered for yet."""
    rows = fetch(
        connection,
        f"""
        SELECT {SUBSCRIPTION}, clock_timestamp() - created_at AS waited
        FROM stripe_subscription
        WHERE attribution_id = (SELECT attribution_id FROM stripe_customer WHERE stripe_customer_id = :customer)
            AND stripe_subscription_id IS NULL AND ended_at IS NULL
        """,
        customer=customer_id,
    )
    if not rows:
        return None
    fields = dict(rows[0]._mapping)
    waited = rows[0].waited
    del fields["waited"]
    return Reserved(row=SubscriptionRow(**fields), waited=waited)


def put_standing(connection: Connection, standing: SubscriptionStanding) -> None:
    """Store how a subscription stands, unless it is known to have ended or was fetched later than this."""
    execute(
        connection,
        """
        UPDATE stripe_subscription
        SET status = :status, stripe_ended_at = :ended_at, last_invoice_id = :invoice, fetched_at = :fetched_at,
            checked_at = clock_timestamp()
        WHERE stripe_subscription_id = :subscription AND ended_at IS NULL
            AND (CAST(:ended_at AS timestamptz) IS NOT NULL, CAST(:fetched_at AS timestamptz))
                >= (stripe_ended_at IS NOT NULL, COALESCE(fetched_at, '-infinity'))
        """,
        subscription=standing.subscription_id,
        status=standing.status,
        ended_at=standing.ended_at,
        invoice=standing.latest_invoice_id,
        fetched_at=standing.fetched_at,
    )


def list_unchecked(connection: Connection, *, limit: int, recheck: timedelta) -> Sequence[StripeSubscriptionId]:
    """Take up to `limit` open subscriptions that were not looked at for a while, longest first; it counts as a look."""
    statement = """
        UPDATE stripe_subscription AS held SET checked_at = clock_timestamp()
        FROM (
            SELECT attribution_id, number FROM stripe_subscription
            WHERE ended_at IS NULL AND stripe_subscription_id IS NOT NULL AND checked_at < clock_timestamp() - :recheck
            ORDER BY checked_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ) AS due
        WHERE (held.attribution_id, held.number) = (due.attribution_id, due.number)
        RETURNING held.stripe_subscription_id
    """
    rows = fetch(connection, statement, limit=limit, recheck=recheck)
    return sorted(row.stripe_subscription_id for row in rows)


def close_subscription(connection: Connection, subscription_id: StripeSubscriptionId) -> bool:
    """Close a subscription that Stripe has ended here, too; return True if this call did it."""
    statement = """
        UPDATE stripe_subscription SET ended_at = stripe_ended_at
        WHERE stripe_subscription_id = :subscription AND stripe_ended_at IS NOT NULL AND ended_at IS NULL
    """
    return execute(connection, statement, subscription=subscription_id) == 1


def mark_customer_deleted(connection: Connection, customer_id: StripeCustomerId, *, at: datetime) -> bool:
    """Remember that a customer is gone; return True if this call was the first to."""
    statement = """
        UPDATE stripe_customer SET deleted_at = :at WHERE stripe_customer_id = :customer AND deleted_at IS NULL
    """
    return execute(connection, statement, customer=customer_id, at=at) == 1
