"""Make an account pay through Stripe: its customer, then its subscription.

Each is a row with its idempotency key before the call and completed after it, so that a crash between any two steps
and two calls at once end in one customer and one subscription.
"""

from dataclasses import replace
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account, Actor
from usage_tasks.domain.cost_centers import BillingStrategy, SpendingLimits
from usage_tasks.domain.customers import CUSTOMER_NEEDED, HeldSubscription, StripeCustomer
from usage_tasks.domain.cycles import Cycle
from usage_tasks.domain.errors import (
    AccessDeniedError,
    InvalidInputError,
    PermanentError,
    RetryableError,
    SpentKeyError,
)
from usage_tasks.domain.idempotency import CALL_OVER
from usage_tasks.domain.payments import NewCustomer, StripeCustomerId, Subscription
from usage_tasks.services.ledger.cost_center import check_limit, set_cost_center
from usage_tasks.services.metering.parked import park_if_unbillable
from usage_tasks.services.payments import lost
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.ledger import cost_centers
from usage_tasks.storage.operations import audit
from usage_tasks.storage.payments import customers, subscriptions
from usage_tasks.storage.payments.customers import CustomerRow, SubscriptionRow
from usage_tasks.stripe_gateway.protocol import StripeGateway

_ATTEMPTS_MAX: Final = 3


def create_customer(
    transaction: Transaction, stripe: StripeGateway, customer: NewCustomer, *, at: datetime, actor: Actor
) -> StripeCustomerId:
    """Return an account's customer in Stripe, made now where there is none.

    If it was asked for before and Stripe's answer was never stored, look in Stripe first. Raises
    InvalidInputError for another currency than was asked for before, RetryableError while a call may still run.
    """
    account = customer.attribution_id
    for _ in range(_ATTEMPTS_MAX):
        with transaction() as connection:
            reserved = _reserve_customer(connection, customer)
        if reserved.currency != customer.currency:
            allowed = f"{reserved.currency}, the currency of the first request, until its customer is deleted in Stripe"
            raise InvalidInputError("currency", customer.currency, allowed)
        if reserved.customer_id is not None:
            return reserved.customer_id
        if not reserved.is_new and (found := lost.find_lost_customer(stripe, account)) is not None:
            _check_currency(found, reserved)
            return _store_customer(transaction, customer, found.customer_id, at=at, actor=actor)
        lost.check_earlier_over(reserved, f"customer of {account}")
        try:
            made = stripe.create_customer(customer, idempotency_key=reserved.idempotency_key)
        except SpentKeyError as error:
            with transaction() as connection:
                customers.renew_customer_key(connection, reserved, answered=error.answered)
            _check_over(error)
            continue
        return _store_customer(transaction, customer, made, at=at, actor=actor)
    raise RetryableError(f"stripe customer of {account}: each answer of Stripe's was an old one")


def _reserve_customer(connection: Connection, customer: NewCustomer) -> CustomerRow:
    reserved = customers.reserve_customer(connection, customer)
    if not reserved.deleted:
        return reserved
    _check_not_subscribed(connection, customer)
    return customers.reserve_customer_again(
        connection, reserved, currency=customer.currency, creator=customer.billing_creator_user_id
    )


def _check_currency(found: StripeCustomer, reserved: CustomerRow) -> None:
    """Refuse a customer in Stripe that is another one than was asked for."""
    if found.preferred_currency != reserved.currency:
        allowed = f"{found.preferred_currency}, the currency of this account's customer {found.customer_id} in Stripe"
        raise InvalidInputError("currency", reserved.currency, allowed)


def _check_over(spent: SpentKeyError) -> None:
    """Raise RetryableError while a call with a spent key may still run: the next look sees what it made."""
    if not spent.answered:
        raise RetryableError(f"{spent}: looked for again once no call with it can run", retry_after=CALL_OVER)


def _store_customer(
    transaction: Transaction, customer: NewCustomer, made: StripeCustomerId, *, at: datetime, actor: Actor
) -> StripeCustomerId:
    with transaction() as connection:
        if customers.complete_customer(connection, customer.attribution_id, made):
            audit.append_audit(
                connection,
                at=at,
                actor=actor,
                action="stripe_customer.create",
                attribution_id=customer.attribution_id,
                details={"stripe_customer_id": made, "currency": customer.currency},
            )
    return made


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
    """Return an account's open subscription, made now where there is none; the account is on stripe from then on.

    The switch is in the transaction that stores the subscription, and its cycle is the subscription's period. Where
    the customer has another subscription in Stripe, the account is parked in it, too.
    Raises InvalidInputError, before anything is made, for an account without a customer, a currency that has no
    price, or a limit that the account may not have; and for a customer that Stripe bills in another currency.
    """
    for _ in range(_ATTEMPTS_MAX):
        with transaction() as connection:
            customer_id, currency = _get_payable(connection, account, price_by_currency)
            check_limit(
                connection, account, strategy=BillingStrategy.STRIPE, spending_limit=spending_limit, limits=limits
            )
            _check_not_ending(connection, account)
            price_id = price_by_currency[currency]
            reserved = customers.reserve_subscription(connection, account.attribution_id, price_id=price_id)
        if reserved.subscription_id is not None:
            return reserved.subscription_id
        payer = stripe.get_customer(customer_id)
        try:
            made = lost.find_lost_subscription(transaction, stripe, payer, reserved, price_id=price_id)
            made = made or _ask(transaction, stripe, payer, reserved, currency=currency)
        except SpentKeyError as error:
            with transaction() as connection:
                customers.renew_subscription(connection, reserved, price_id=price_id, answered=error.answered)
            _check_over(error)
            continue
        with transaction() as connection:
            store_subscription(
                connection, account, reserved, made, spending_limit=spending_limit, limits=limits, actor=actor
            )
            others = [one for one in payer.subscriptions if one.subscription_id != made.subscription_id]
            if others:
                seen = replace(payer, subscriptions=[*others, _held(made)])
                park_if_unbillable(connection, seen, our_prices=frozenset(price_by_currency.values()), actor=actor)
        return made.subscription_id
    raise RetryableError(f"stripe subscription of {account.attribution_id}: each answer of Stripe's was an old one")


def _get_payable(
    connection: Connection, account: Account, price_by_currency: dict[str, str]
) -> tuple[StripeCustomerId, str]:
    """Return an account's customer and its currency, which must have a price."""
    customer = customers.find_customer(connection, account.attribution_id)
    if customer is None or customer.customer_id is None or customer.deleted:
        raise InvalidInputError(
            "attribution_id",
            account.attribution_id,
            CUSTOMER_NEEDED,
        )
    if customer.currency not in price_by_currency:
        priced = ", ".join(sorted(price_by_currency)) or "none"
        raise InvalidInputError("currency", customer.currency, f"a currency with a configured price: {priced}")
    return customer.customer_id, customer.currency


def _ask(
    transaction: Transaction, stripe: StripeGateway, payer: StripeCustomer, reserved: SubscriptionRow, *, currency: str
) -> Subscription:
    """Ask Stripe for a subscription. After a refusal, the next request has a new key and the terms of that time.

    Tax is decided once per key, for the same key must come with the same terms.
    """
    if payer.deleted:
        allowed = f"an account whose customer {payer.customer_id} is not deleted in Stripe (try again for a new one)"
        raise InvalidInputError("attribution_id", reserved.attribution_id, allowed)
    with transaction() as connection:
        taxed = customers.decide_tax(connection, reserved, automatic_tax=payer.automatic_tax)
    if taxed is None:
        raise SpentKeyError(f"subscription of {reserved.attribution_id}: another worker went on", answered=True)
    try:
        return stripe.create_subscription(
            payer.customer_id,
            price_id=reserved.price_id,
            idempotency_key=reserved.idempotency_key,
            automatic_tax=taxed,
        )
    except (SpentKeyError, AccessDeniedError):
        raise
    except PermanentError as error:
        with transaction() as connection:
            customers.renew_subscription(connection, reserved, price_id=reserved.price_id, answered=False)
        if payer.billed_currency in (None, currency):
            raise
        allowed = (
            f"{payer.billed_currency}, in which Stripe bills {payer.customer_id}; to change it, end everything"
            f" that it has in that currency (subscriptions, quotes, discounts, invoice items), then try again ({error})"
        )
        raise InvalidInputError("currency", currency, allowed) from error


def _held(made: Subscription) -> HeldSubscription:
    """See a subscription that was just made as its customer shows it; only that it is there counts."""
    return HeldSubscription(subscription_id=made.subscription_id, automatic_tax=False, items=())


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
    """Store a subscription that Stripe has made, and switch its account to it; return whether this was the first to."""
    first = customers.complete_subscription(connection, reserved, made)
    if first:
        _switch(connection, account, made, spending_limit=spending_limit, limits=limits, actor=actor)
    return first


def _check_not_subscribed(connection: Connection, customer: NewCustomer) -> None:
    """Refuse a new customer while the subscription of the deleted one is not over: it still has reports."""
    if (held := subscriptions.find_open(connection, customer.attribution_id)) is not None:
        allowed = f"an account whose subscription {held.subscription_id} is over, as its customer is gone (try later)"
        raise InvalidInputError("attribution_id", customer.attribution_id, allowed)


def _check_not_ending(connection: Connection, account: Account) -> None:
    """Refuse a new subscription while the last invoice of the one before is not booked: both would bill its credits."""
    held = subscriptions.find_open(connection, account.attribution_id)
    if held is not None and held.stripe_ended_at is not None:
        allowed = (
            f"an account whose ended subscription {held.subscription_id} has its last invoice booked (try again later)"
        )
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
