"""Reflect a subscription: adopt it if its answer was lost, store its state, end it after its last invoice."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, parse_attribution
from usage_tasks.domain.customers import StripeCustomer
from usage_tasks.domain.errors import RetryableError
from usage_tasks.domain.payments import Invoice, StripeSubscriptionId, Subscription, SubscriptionStanding
from usage_tasks.services.metering.parked import park_if_unbillable
from usage_tasks.services.payments.billing_terms import BillingTerms
from usage_tasks.services.payments.leave_stripe import leave_if_settled
from usage_tasks.services.payments.reflect_invoice import Effect, reflect_invoice
from usage_tasks.services.payments.subscribe import store_subscription
from usage_tasks.storage.ledger import cost_centers
from usage_tasks.storage.payments import subscriptions
from usage_tasks.stripe_gateway.protocol import StripeGateway

ADOPT_AFTER: Final = timedelta(minutes=15)
"""Until then the task that made a subscription may still store it, with the spending limit that was asked for."""

_ACTOR: Final = Actor("service:stripe.apply_events")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionLook:
    """A subscription as it was fetched: with its last invoice once it has ended, with its customer until then."""

    standing: SubscriptionStanding
    last_invoice: Invoice | None
    customer: StripeCustomer | None


def look_at_subscription(stripe: StripeGateway, subscription_id: StripeSubscriptionId) -> SubscriptionLook:
    """Fetch a subscription and the objects needed with it."""
    standing = stripe.get_subscription(subscription_id)
    if standing.ended_at is None:
        customer = stripe.get_customer(standing.customer_id)
        return SubscriptionLook(standing=standing, last_invoice=None, customer=customer)
    invoice_id = standing.latest_invoice_id
    last = None if invoice_id is None else stripe.get_invoice(invoice_id)
    return SubscriptionLook(standing=standing, last_invoice=last, customer=None)


def reflect_subscription(
    connection: Connection, look: SubscriptionLook, *, terms: BillingTerms, at: datetime
) -> Effect:
    """Bring an account in line with its subscription. A subscription that is not ours has no effect.

    An ended subscription is compared by its id: if the account has a newer one, nothing happens. Else its last invoice
    is reflected, and the account leaves stripe once that is booked. While it goes on, the account is parked if its
    customer is subscribed in a way that one quantity cannot bill, also by a subscription that is not ours.
    """
    effect = _reflect(connection, look.standing, look.last_invoice, terms=terms, at=at)
    if look.customer is None:
        return effect
    reason = park_if_unbillable(connection, look.customer, our_prices=terms.our_prices, actor=_ACTOR)
    return effect if reason is None else replace(effect, outcome=f"{effect.outcome}; account parked: {reason}")


def _reflect(
    connection: Connection, standing: SubscriptionStanding, last: Invoice | None, *, terms: BillingTerms, at: datetime
) -> Effect:
    known = subscriptions.find_subscription(connection, standing.subscription_id)
    if known is None:
        return _adopt(connection, standing, terms=terms)
    if known.ended_at is not None:
        return Effect(outcome="subscription ended before")
    if cost_centers.find_current(connection, known.attribution_id) is not None:
        cost_centers.lock_current(connection, known.attribution_id)
    subscriptions.put_standing(connection, standing)
    if standing.ended_at is None:
        return Effect(outcome=f"subscription is {standing.status}")
    if last is not None:
        effect = reflect_invoice(connection, last, terms=terms, at=at)
        return Effect(
            reports=effect.reports,
            entries=effect.entries,
            outcome=f"subscription ended; last invoice: {effect.outcome}",
        )
    left = leave_if_settled(connection, standing.subscription_id, terms=terms, at=at)
    return Effect(outcome="subscription ended; the account left stripe" if left else "subscription ended")


def _adopt(connection: Connection, standing: SubscriptionStanding, *, terms: BillingTerms) -> Effect:
    """Store a subscription that we asked for and whose answer was lost: it bills, and nobody would know."""
    reserved = subscriptions.find_reserved(connection, standing.customer_id)
    starts, ends = standing.current_period_start, standing.current_period_end
    prices = frozenset() if reserved is None else reserved.row.price_ids.intersection(standing.price_ids)
    if reserved is None or not prices or starts is None or ends is None:
        return Effect(outcome="not a subscription of ours")
    if reserved.waited < ADOPT_AFTER:
        raise RetryableError(f"subscription {standing.subscription_id}: the task that made it may still store it")
    made = Subscription(
        subscription_id=standing.subscription_id,
        customer_id=standing.customer_id,
        price_id=min(prices),
        current_period_start=starts,
        current_period_end=ends,
    )
    store_subscription(
        connection,
        parse_attribution(reserved.row.attribution_id),
        reserved.row,
        made,
        spending_limit=None,
        limits=terms.limits,
        actor=_ACTOR,
    )
    return Effect(outcome="subscription of ours stored, whose answer was lost")
