"""Find the objects in Stripe that were asked for and whose answer was never stored.

A process may die between Stripe's work and our commit. The idempotency key alone does not find out: Stripe refuses it
for other arguments, repeats an error that it stored, and repeats the first answer although the object is gone.
"""

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.customers import StripeCustomer
from usage_tasks.domain.errors import PermanentError, RetryableError, SpentKeyError
from usage_tasks.domain.idempotency import CALL_OVER
from usage_tasks.domain.payments import Subscription
from usage_tasks.services.payments.customers import only_one
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.payments import subscriptions
from usage_tasks.storage.payments.customers import CustomerRow, SubscriptionRow
from usage_tasks.stripe_gateway.protocol import StripeGateway


def find_lost_customer(stripe: StripeGateway, account: AttributionId) -> StripeCustomer | None:
    """Find the live customer of an account, however lately it was made.

    The search does not know the newest ones, and may still know deleted ones: each is fetched as it is now.
    Raises PermanentError if there are several.
    """
    ids = {one.customer_id for one in stripe.search_customers(account)}
    ids |= set(stripe.list_recent_customers(account))
    fetched = [stripe.get_customer(customer_id) for customer_id in sorted(ids)]
    return only_one([one for one in fetched if one.attribution_id == account], account)


def find_lost_subscription(
    transaction: Transaction, stripe: StripeGateway, payer: StripeCustomer, reserved: SubscriptionRow, *, price_id: str
) -> Subscription | None:
    """Find the live subscription that was asked for a customer; None if nobody asked before, or if there is none.

    It may have any price of an earlier request. Raises PermanentError if there are several; if there is
    none, RetryableError while a call with an earlier key may still make it, and SpentKeyError if the price to ask for
    has changed since: Stripe may no longer take the old price.
    """
    if reserved.is_new:
        return None
    held = {
        one.subscription_id: item.price_id
        for one in payer.subscriptions
        for item in one.items
        if item.price_id in reserved.price_ids
    }
    with transaction() as connection:
        ours = subscriptions.list_ours(connection, list(held))
    found = [subscription_id for subscription_id in held if subscription_id not in ours]
    if len(found) > 1:
        raise PermanentError(
            f"subscriptions of {payer.customer_id}: must be at most one in Stripe (got {', '.join(found)})"
        )
    if not found:
        check_earlier_over(reserved, f"subscription of {reserved.attribution_id}")
        if reserved.price_id != price_id:
            raise SpentKeyError(f"subscription of {reserved.attribution_id}: its price changed", answered=False)
        return None
    standing = stripe.get_subscription(found[0])
    if standing.ended_at is not None or standing.current_period_start is None or standing.current_period_end is None:
        return None
    return Subscription(
        subscription_id=standing.subscription_id,
        customer_id=standing.customer_id,
        price_id=held[found[0]],
        current_period_start=standing.current_period_start,
        current_period_end=standing.current_period_end,
    )


def check_earlier_over(reserved: CustomerRow | SubscriptionRow, what: str) -> None:
    """Raise RetryableError while a call with an earlier key may still run: a look does not see yet what it makes."""
    if reserved.earlier_may_run:
        raise RetryableError(f"{what}: a call with an earlier key may still run", retry_after=CALL_OVER)
