"""What an installation's configuration says about Stripe's invoices: one value for all who reflect them."""

from dataclasses import dataclass

from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.dunning import DunningPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingTerms:
    """Which prices are credits of ours, which limits hold, and how a failed payment is followed up, if it is."""

    our_prices: frozenset[str]
    limits: SpendingLimits
    dunning: DunningPolicy | None
