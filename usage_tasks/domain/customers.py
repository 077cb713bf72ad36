"""What Stripe knows of a payer, as far as decisions need it: no name, no address, nothing of a card."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from usage_tasks.domain.payments import StripeCustomerId, StripeSubscriptionId


class TaxState(StrEnum):
    """Whether Stripe can tell a customer's tax from where they are."""

    SUPPORTED = "supported"
    NOT_COLLECTING = "not_collecting"
    UNRECOGNIZED_LOCATION = "unrecognized_location"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxedSubscription:
    """A subscription that is not over, and whether its invoices tell tax."""

    subscription_id: StripeSubscriptionId
    automatic_tax: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeCustomer:
    """A customer as Stripe has it now. A deleted one has nothing but its id."""

    customer_id: StripeCustomerId
    deleted: bool = False
    attribution_id: str | None = None
    preferred_currency: str | None = None
    billing_creator_user_id: str | None = None
    tax_state: TaxState | None = None
    has_payment_method: bool = False
    subscriptions: Sequence[TaxedSubscription] = field(default_factory=tuple)

    @property
    def automatic_tax(self) -> bool:
        """Whether the customer's subscriptions are to tell tax."""
        return self.tax_state is TaxState.SUPPORTED


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
