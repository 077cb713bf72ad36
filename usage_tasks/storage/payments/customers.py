"""Stripe's customers and subscriptions of our accounts: a row before the call, completed after it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.customers import StripeCustomer
from usage_tasks.domain.errors import InvariantError, RetryableError
from usage_tasks.domain.idempotency import CALL_OVER, fresh_key
from usage_tasks.domain.payments import NewCustomer, StripeCustomerId, StripeSubscriptionId, Subscription
from usage_tasks.storage.leases import is_free
from usage_tasks.storage.rows import execute, fetch

# Whoever called with an earlier key began before the present one was stored.
_OVER_AT = f"renewed_at + interval '{CALL_OVER // timedelta(seconds=1)} seconds'"
_MAY_RUN = f"NOT {is_free(_OVER_AT)} AS earlier_may_run"


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerRow:
    """The stored customer of an account; `customer_id` is None until Stripe has answered.

    `is_new`: this call stored it, so Stripe has not been asked for it yet. `earlier_may_run`: its key is so fresh
    that a call with an earlier one may still run.
    """

    attribution_id: AttributionId
    customer_id: StripeCustomerId | None
    currency: str
    idempotency_key: str
    deleted: bool = False
    earlier_may_run: bool = False
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionRow:
    """The stored open subscription of an account; `subscription_id` is None until Stripe has answered.

    `is_new`: this call stored it, so Stripe has not been asked for it yet. `earlier_may_run`: its key is so fresh
    that a call with an earlier one may still run, with one of `earlier_price_ids`.
    """

    attribution_id: AttributionId
    number: int
    subscription_id: StripeSubscriptionId | None
    idempotency_key: str
    price_id: str
    earlier_price_ids: Sequence[str] = ()
    earlier_may_run: bool = False
    is_new: bool = False

    @property
    def price_ids(self) -> frozenset[str]:
        """Every price that Stripe may have been asked for."""
        return frozenset({self.price_id, *self.earlier_price_ids})


_CUSTOMER = f"""
    attribution_id, stripe_customer_id AS customer_id, currency, idempotency_key, deleted_at IS NOT NULL AS deleted,
    {_MAY_RUN}
"""
SUBSCRIPTION = f"""
    attribution_id, number, stripe_subscription_id AS subscription_id, idempotency_key, price_id, earlier_price_ids,
    {_MAY_RUN}
"""
"""The columns of a SubscriptionRow."""


def _key(attribution_id: str) -> str:
    """Write the idempotency key of the call that makes an account's customer."""
    return f"'customer:' || {attribution_id}"


def reserve_customer(connection: Connection, customer: NewCustomer) -> CustomerRow:
    """Store that an account's customer is about to be made, unless that is stored already; return the stored row.

    The e-mail and the name go to Stripe only; they are not kept here.
    """
    new = execute(
        connection,
        f"""
        INSERT INTO stripe_customer (attribution_id, currency, billing_creator_user_id, idempotency_key)
        VALUES (:account, :currency, :creator, {_key(":account")}) ON CONFLICT (attribution_id) DO NOTHING
        """,
        account=customer.attribution_id,
        currency=customer.currency,
        creator=customer.billing_creator_user_id,
    )
    found = find_customer(connection, customer.attribution_id)
    if found is None:
        raise InvariantError(f"stripe customer: {customer.attribution_id} was reserved and has no row")
    return replace(found, is_new=new == 1)


def reserve_customer_again(connection: Connection, gone: CustomerRow, *, currency: str, creator: str) -> CustomerRow:
    """Store that a customer is about to be made in the place of a deleted one; return the row.

    The new customer may have another currency: nothing will be billed to the deleted customer any more.
    """
    new = execute(
        connection,
        f"""
        UPDATE stripe_customer
        SET stripe_customer_id = NULL, deleted_at = NULL, currency = :currency, billing_creator_user_id = :creator,
            idempotency_key = {_key("attribution_id")} || ':after:' || stripe_customer_id
        WHERE attribution_id = :account AND stripe_customer_id = :gone AND deleted_at IS NOT NULL
        """,
        account=gone.attribution_id,
        gone=gone.customer_id,
        currency=currency,
        creator=creator,
    )
    found = find_customer(connection, gone.attribution_id)
    if found is None:
        raise InvariantError(f"stripe customer: {gone.attribution_id} was to be replaced and has no row")
    return replace(found, is_new=new == 1)


def renew_customer_key(connection: Connection, row: CustomerRow, *, answered: bool) -> None:
    """Store a fresh key in the place of a spent one, unless another worker did or Stripe's answer is stored.

    A trigger notes when. If the answer under the spent key is final, no call with it is waited for.
    """
    statement = """
        UPDATE stripe_customer SET idempotency_key = :fresh
        WHERE attribution_id = :account AND idempotency_key = :spent AND stripe_customer_id IS NULL
    """
    key = row.idempotency_key
    renewed = execute(connection, statement, account=row.attribution_id, spent=key, fresh=fresh_key(key))
    if renewed and answered:
        at_once = "UPDATE stripe_customer SET renewed_at = NULL WHERE attribution_id = :account"
        execute(connection, at_once, account=row.attribution_id)


def find_customer(connection: Connection, attribution_id: AttributionId) -> CustomerRow | None:
    """Return the stored customer of an account, or None."""
    statement = f"SELECT {_CUSTOMER} FROM stripe_customer WHERE attribution_id = :account"
    rows = fetch(connection, statement, account=attribution_id)
    return CustomerRow(**rows[0]._mapping) if rows else None


def is_unanswered(connection: Connection, attribution_id: AttributionId, *, longer_than: timedelta) -> bool:
    """Return True if a customer was asked for that long ago, and what Stripe answered was never stored."""
    statement = """
        SELECT 1 FROM stripe_customer WHERE attribution_id = :account AND stripe_customer_id IS NULL
            AND created_at < clock_timestamp() - CAST(:age AS interval)
    """
    return bool(fetch(connection, statement, account=attribution_id, age=longer_than))


def adopt_customer(connection: Connection, attribution_id: AttributionId, found: StripeCustomer) -> bool:
    """Store a customer that was found in Stripe, unless another one stands; return True if this call did."""
    statement = f"""
        INSERT INTO stripe_customer AS held
            (attribution_id, stripe_customer_id, currency, billing_creator_user_id, idempotency_key)
        VALUES (:account, :customer, :currency, :creator, {_key(":account")})
        ON CONFLICT (attribution_id) DO UPDATE SET stripe_customer_id = EXCLUDED.stripe_customer_id
        WHERE held.stripe_customer_id IS NULL
    """
    return (
        execute(
            connection,
            statement,
            account=attribution_id,
            customer=found.customer_id,
            currency=found.preferred_currency,
            creator=found.billing_creator_user_id or "",
        )
        == 1
    )


def decide_tax(connection: Connection, row: SubscriptionRow, *, automatic_tax: bool) -> bool | None:
    """Store the tax setting of a subscription's next call, unless one is stored already; return the stored one.

    None if the call is not to be made: its key is spent, or Stripe's answer is stored.
    """
    statement = """
        UPDATE stripe_subscription SET automatic_tax = COALESCE(automatic_tax, :automatic_tax)
        WHERE attribution_id = :account AND number = :number AND idempotency_key = :key
            AND stripe_subscription_id IS NULL
        RETURNING automatic_tax
    """
    named = {"account": row.attribution_id, "number": row.number, "key": row.idempotency_key}
    stands = fetch(connection, statement, **named, automatic_tax=automatic_tax)
    return bool(stands[0].automatic_tax) if stands else None


def find_account(connection: Connection, customer_id: StripeCustomerId) -> AttributionId | None:
    """Return the account of this customer, or None if it is not ours."""
    rows = fetch(
        connection,
        "SELECT attribution_id FROM stripe_customer WHERE stripe_customer_id = :customer",
        customer=customer_id,
    )
    return rows[0].attribution_id if rows else None


def list_ours(connection: Connection, customer_ids: Sequence[StripeCustomerId]) -> frozenset[StripeCustomerId]:
    """List those of the customers that are ours."""
    statement = """
        SELECT stripe_customer_id AS id FROM stripe_customer WHERE stripe_customer_id = ANY(CAST(:ids AS text[]))
    """
    return frozenset(row.id for row in fetch(connection, statement, ids=list(customer_ids)))


def list_customers(connection: Connection, *, after: str, limit: int) -> Sequence[CustomerRow]:
    """List the accounts' customers that are not known to be deleted, by account, from behind one of them."""
    statement = f"""
        SELECT {_CUSTOMER} FROM stripe_customer WHERE attribution_id > :after AND deleted_at IS NULL
        ORDER BY attribution_id LIMIT :limit
    """
    return [CustomerRow(**row._mapping) for row in fetch(connection, statement, after=after, limit=limit)]


def complete_customer(connection: Connection, attribution_id: AttributionId, customer_id: StripeCustomerId) -> bool:
    """Store the id that Stripe gave; return True if this call was the first to."""
    statement = """
        UPDATE stripe_customer SET stripe_customer_id = :customer
        WHERE attribution_id = :account AND stripe_customer_id IS NULL
    """
    return execute(connection, statement, account=attribution_id, customer=customer_id) == 1


def list_prices(connection: Connection, attribution_id: AttributionId) -> frozenset[str]:
    """List the prices that Stripe was asked for an account's subscriptions, open or ended, with."""
    statement = """
        SELECT DISTINCT unnest(array_append(earlier_price_ids, price_id)) AS price_id
        FROM stripe_subscription WHERE attribution_id = :account
    """
    return frozenset(str(row.price_id) for row in fetch(connection, statement, account=attribution_id))


def reserve_subscription(connection: Connection, attribution_id: AttributionId, *, price_id: str) -> SubscriptionRow:
    """Store that a subscription is about to be made, unless an open one is stored already; return the open one.

    Raises RetryableError if that one ends in between.
    """
    new = execute(
        connection,
        """
        INSERT INTO stripe_subscription (attribution_id, number, idempotency_key, price_id)
        SELECT :account, n, 'subscription:' || :account || ':' || n, :price
        FROM (SELECT COALESCE(max(number), 0) + 1 AS n FROM stripe_subscription WHERE attribution_id = :account) AS next
        ON CONFLICT DO NOTHING
        """,
        account=attribution_id,
        price=price_id,
    )
    found = find_open_subscription(connection, attribution_id)
    if found is None:
        raise RetryableError(f"stripe subscription: that of {attribution_id} ended this very moment: try again")
    return replace(found, is_new=new == 1)


def renew_subscription(connection: Connection, row: SubscriptionRow, *, price_id: str, answered: bool) -> None:
    """Store a fresh key, for this price and with tax undecided, unless another worker did or an answer is stored.

    Triggers note when, and the price before. If the answer under the spent key is final, no call with it is waited for.
    """
    statement = """
        UPDATE stripe_subscription SET idempotency_key = :fresh, price_id = :price, automatic_tax = NULL
        WHERE attribution_id = :account AND number = :number AND idempotency_key = :spent
            AND stripe_subscription_id IS NULL
    """
    key = row.idempotency_key
    named = {"account": row.attribution_id, "number": row.number}
    renewed = execute(connection, statement, **named, price=price_id, spent=key, fresh=fresh_key(key))
    if renewed and answered:
        at_once = """
            UPDATE stripe_subscription SET renewed_at = NULL WHERE attribution_id = :account AND number = :number
        """
        execute(connection, at_once, **named)


def find_open_subscription(connection: Connection, attribution_id: AttributionId) -> SubscriptionRow | None:
    """Return an account's open subscription, which Stripe may not have answered for yet."""
    rows = fetch(
        connection,
        f"SELECT {SUBSCRIPTION} FROM stripe_subscription WHERE attribution_id = :account AND ended_at IS NULL",
        account=attribution_id,
    )
    return SubscriptionRow(**rows[0]._mapping) if rows else None


def complete_subscription(connection: Connection, row: SubscriptionRow, made: Subscription) -> bool:
    """Store the id that Stripe gave and the price it was made with; return True if this call was the first to."""
    statement = """
        UPDATE stripe_subscription SET stripe_subscription_id = :subscription, price_id = :price
        WHERE attribution_id = :account AND number = :number AND stripe_subscription_id IS NULL
    """
    return (
        execute(
            connection,
            statement,
            account=row.attribution_id,
            number=row.number,
            subscription=made.subscription_id,
            price=made.price_id,
        )
        == 1
    )
