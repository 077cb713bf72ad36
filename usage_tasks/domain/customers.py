"""Stripe's data about a payer, as far as decisions need it: no name, no address, no card data."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from usage_tasks.domain.payments import StripeCustomerId, StripeSubscriptionId

CUSTOMER_NEEDED: Final = "an account with a customer in Stripe, made by billing.create_stripe_customer"
"""For the error of an account without a customer: what it must be."""


class TaxState(StrEnum):
    """Whether Stripe can calculate a customer's tax from their location."""

    SUPPORTED = "supported"
    NOT_COLLECTING = "not_collecting"
    UNRECOGNIZED_LOCATION = "unrecognized_location"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribedItem:
    """An item that a subscription charges for. `meter_id` is None if the item is not metered."""

    price_id: str
    meter_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSubscription:
    """A subscription that is not over: whether its invoices include tax, and its items."""

    subscription_id: StripeSubscriptionId
    automatic_tax: bool
    items: Sequence[SubscribedItem]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeCustomer:
    """A customer as Stripe had it at `fetched_at`. A deleted one has nothing but its id.

    `preferred_currency` is what we once wrote on it; `billed_currency` what Stripe has billed it in, None before that.
    """

    customer_id: StripeCustomerId
    fetched_at: datetime
    deleted: bool = False
    attribution_id: str | None = None
    preferred_currency: str | None = None
    billed_currency: str | None = None
    billing_creator_user_id: str | None = None
    tax_state: TaxState | None = None
    has_payment_method: bool = False
    subscriptions: Sequence[HeldSubscription] = field(default_factory=tuple)

    @property
    def automatic_tax(self) -> bool:
        """True if the invoices of the customer's subscriptions must include tax."""
        return self.tax_state is TaxState.SUPPORTED


def find_obstacle(subscriptions: Sequence[HeldSubscription], our_prices: Set[str]) -> str | None:
    """Return why one quantity can't bill a customer; None if it can, or if there is no subscription to bill.

    A meter bills every item that hangs on it: a second one would bill the same credits again, under any
    price. Items of other prices that are not on our meter are none of ours.
    """
    if not subscriptions:
        return None
    if len(subscriptions) > 1:
        named = ", ".join(sorted(one.subscription_id for one in subscriptions))
        return f"{len(subscriptions)} subscriptions in Stripe, one is allowed: {named}"
    (one,) = subscriptions
    ours = {item.meter_id for item in one.items if item.price_id in our_prices} - {None}
    metered = [item.price_id for item in one.items if item.meter_id in ours]
    if len(metered) == 1:
        return None
    named = f": {', '.join(sorted(metered))}" if metered else ""
    return f"subscription {one.subscription_id} has {len(metered)} metered items of ours, one is allowed{named}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceInformation:
    """A price as Stripe has it. `unit_amount` is currency cents a credit; None for a tiered price."""

    price_id: str
    currency: str
    active: bool
    meter_id: str | None
    interval: str | None
    unit_amount: Decimal | None
    human_readable_description: str
