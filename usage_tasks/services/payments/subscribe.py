"""Make an account pay through Stripe: its customer, then its subscription.

Each is a row with its idempotency key before the call and completed after it, so that a crash between any two steps
and two calls at once end in one customer and one subscription.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account, Actor
from usage_tasks.domain.cost_centers import BillingStrategy, SpendingLimits
from usage_tasks.domain.customers import HeldSubscription
from usage_tasks.domain.cycles import Cycle
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.payments import NewCustomer, StripeCustomerId, Subscription
from usage_tasks.services.ledger.cost_center import check_limit, set_cost_center
from usage_tasks.services.metering.parked import park_if_unbillable
from usage_tasks.services.payments.customers import adopt_customer, search_customer
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.ledger import cost_centers
from usage_tasks.storage.operations import audit
from usage_tasks.storage.payments import customers, subscriptions
from usage_tasks.storage.payments.customers import SubscriptionRow
from usage_tasks.stripe_gateway.protocol import StripeGateway

_KEY_KEPT: Final = timedelta(hours=12)
"""Well below the 24 hours for which Stripe answers the same key with the same customer."""


def create_customer(
    transaction: Transaction, stripe: StripeGateway, customer: NewCustomer, *, at: datetime, actor: Actor
) -> StripeCustomerId:
    """Answer an account's customer in Stripe, made now where there is none."""
    with transaction() as connection:
        reserved = customers.reserve_customer(connection, customer)
        if reserved.deleted:
            _check_not_subscribed(connection, customer)
            reserved = customers.reserve_customer_again(connection, reserved)
        lost = customers.is_unanswered(connection, customer.attribution_id, longer_than=_KEY_KEPT)
    if reserved.currency != customer.currency:
        raise InvalidInputError("currency", customer.currency, f"{reserved.currency}, as was asked for before")
    if reserved.customer_id is not None:
        return reserved.customer_id
    if lost:  # Stripe remembers a key for a day: what it made then can only be found
        found = search_customer(stripe, customer.attribution_id)
        if found is not None:
            adopt_customer(transaction, found, customer.attribution_id, at=at, actor=actor)
            return found.customer_id
    customer_id = stripe.create_customer(customer, idempotency_key=reserved.idempotency_key)
    with transaction() as connection:
        if customers.complete_customer(connection, customer.attribution_id, customer_id):
            audit.append_audit(
                connection,
                at=at,
                actor=actor,
                action="stripe_customer.create",
                attribution_id=customer.attribution_id,
                details={"stripe_customer_id": customer_id, "currency": customer.currency},
            )
    return customer_id


def create_subscription(
    transaction: Transaction,
    stripe: StripeGateway,
    account: Account,
    *,
    price_by_currency: dict[str, str],
    spending_limit: int | None,
    limits: SpendingLimits,
    actor: Actor,
) -> str:
    """Answer an account's open subscription, made now where there is none; the account is on stripe from then on.

    The switch is in the transaction that stores the subscription, and its cycle is the subscription's period. Where
    the customer has another subscription in Stripe, the account is parked in it, too.
    Raises InvalidInputError, before anything is made, for an account without a customer, a currency that has no
    price, or a limit that the account may not have.
    """
    with transaction() as connection:
        customer = customers.find_customer(connection, account.attribution_id)
        if customer is None or customer.customer_id is None or customer.deleted:
            raise InvalidInputError("attribution_id", account.attribution_id, "an account with a Stripe customer")
        if customer.currency not in price_by_currency:
            priced = ", ".join(sorted(price_by_currency)) or "none"
            raise InvalidInputError("currency", customer.currency, f"one that has a configured price: {priced}")
        check_limit(connection, account, strategy=BillingStrategy.STRIPE, spending_limit=spending_limit, limits=limits)
        _check_not_ending(connection, account)
        reserved = customers.reserve_subscription(
            connection, account.attribution_id, price_id=price_by_currency[customer.currency]
        )
    if reserved.subscription_id is not None:
        return reserved.subscription_id
    # Told once, for the same key must come with the same terms.
    payer = stripe.get_customer(customer.customer_id)
    with transaction() as connection:
        taxed = customers.decide_tax(connection, reserved, automatic_tax=payer.automatic_tax)
    made = stripe.create_subscription(
        customer.customer_id,
        price_id=reserved.price_id,
        idempotency_key=reserved.idempotency_key,
        automatic_tax=taxed,
    )
    with transaction() as connection:
        store_subscription(
            connection, account, reserved, made, spending_limit=spending_limit, limits=limits, actor=actor
        )
        others = [one for one in payer.subscriptions if one.subscription_id != made.subscription_id]
        if others:
            seen = replace(payer, subscriptions=[*others, _held(made, automatic_tax=taxed)])
            park_if_unbillable(connection, seen, our_prices=frozenset(price_by_currency.values()), actor=actor)
    return made.subscription_id


def _held(made: Subscription, *, automatic_tax: bool) -> HeldSubscription:
    """See a subscription that was just made as its customer shows it; only that it is there counts."""
    return HeldSubscription(subscription_id=made.subscription_id, automatic_tax=automatic_tax, items=())


def store_subscription(
    connection: Connection,
    account: Account,
    reserved: SubscriptionRow,
    made: Subscription,
    *,
    spending_limit: int | None,
    limits: SpendingLimits,
    actor: Actor,
) -> bool:
    """Store a subscription that Stripe has made, and switch its account to it; tell whether this was the first to."""
    first = customers.complete_subscription(connection, reserved, made.subscription_id)
    if first:
        _switch(connection, account, made, spending_limit=spending_limit, limits=limits, actor=actor)
    return first


def _check_not_subscribed(connection: Connection, customer: NewCustomer) -> None:
    """Refuse another customer while the subscription of the one that is gone is not over: it still has reports."""
    if (held := subscriptions.find_open(connection, customer.attribution_id)) is not None:
        allowed = f"an account whose subscription {held.subscription_id} is over, for its customer is gone: try later"
        raise InvalidInputError("attribution_id", customer.attribution_id, allowed)


def _check_not_ending(connection: Connection, account: Account) -> None:
    """Refuse a new subscription while the last invoice of the one before is not booked: both would bill its credits."""
    held = subscriptions.find_open(connection, account.attribution_id)
    if held is not None and held.stripe_ended_at is not None:
        allowed = f"an account whose ended subscription {held.subscription_id} has its last invoice booked: try later"
        raise InvalidInputError("attribution_id", account.attribution_id, allowed)


def _switch(
    connection: Connection,
    account: Account,
    made: Subscription,
    *,
    spending_limit: int | None,
    limits: SpendingLimits,
    actor: Actor,
) -> None:
    switched = set_cost_center(
        connection,
        account,
        strategy=BillingStrategy.STRIPE,
        spending_limit=spending_limit,
        expected_version=None,
        limits=limits,
        at=made.current_period_start,
        actor=actor,
    )
    period = Cycle(anchor_at=made.current_period_start, number=0)
    if switched.cycle != period:  # it was on stripe already, in a cycle of its own
        aligned = replace(switched, version=switched.version + 1, cycle=period)
        cost_centers.append_versions(connection, [aligned], actor=actor)
    audit.append_audit(
        connection,
        at=made.current_period_start,
        actor=actor,
        action="stripe_subscription.create",
        attribution_id=account.attribution_id,
        details={"stripe_subscription_id": made.subscription_id, "price_id": made.price_id},
    )
