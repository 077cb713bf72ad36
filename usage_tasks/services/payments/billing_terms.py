"""The configuration that concerns Stripe's invoices, as one value for every module that reflects them."""

from dataclasses import dataclass

from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.dunning import DunningPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingTerms:
    """Which prices are credits of ours, which limits hold, and how a failed payment is followed up, if it is."""

    our_prices: frozenset[str]
    limits: SpendingLimits
    dunning: DunningPolicy | None
