"""Cost centers: how an account pays, how much it may use, and where its billing cycle stands.

A change makes a new version; versions are never edited.
Source: docs/semantics.md, Cost centers and cycles; docs/adr/0003.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from usage_tasks.domain.accounts import Account, AccountKind, AttributionId
from usage_tasks.domain.credits import CENTS_PER_CREDIT, CreditCents
from usage_tasks.domain.cycles import Cycle
from usage_tasks.domain.errors import InvalidInputError

SPENDING_LIMIT_MAX = 10**12
"""Credits. Its cents fit a bigint with room to spare."""


class BillingStrategy(StrEnum):
    """How the balance is settled: by Stripe's invoices, or by an allowance that covers it each cycle."""

    STRIPE = "stripe"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostCenter:
    """One version of an account's cost center. `spending_limit` is in credits a cycle."""

    attribution_id: AttributionId
    version: int
    billing_strategy: BillingStrategy
    spending_limit: int
    cycle: Cycle

    @property
    def next_billing_at(self) -> datetime:
        """When the current cycle ends."""
        return self.cycle.ends_at

    def is_due(self, at: datetime) -> bool:
        """Return True if the cycle has ended by `at` and an allowance, not Stripe, settles it."""
        return self.billing_strategy is BillingStrategy.OTHER and self.next_billing_at <= at


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingLimits:
    """The spending limits of new accounts, in credits per cycle, and the minimum limit of a paying individual."""

    for_teams: int
    for_users: int
    min_for_users_on_stripe: int


def default_limit(account: Account, limits: SpendingLimits) -> int:
    """Return the spending limit of a new account, in credits."""
    return limits.for_teams if account.kind is AccountKind.TEAM else limits.for_users


def new_cost_center(account: Account, limits: SpendingLimits, *, at: datetime) -> CostCenter:
    """Open an account: strategy other, the default limit of its kind, a cycle from now."""
    return CostCenter(
        attribution_id=account.attribution_id,
        version=1,
        billing_strategy=BillingStrategy.OTHER,
        spending_limit=default_limit(account, limits),
        cycle=Cycle(anchor_at=at, number=0),
    )


def change_limit(current: CostCenter, account: Account, spending_limit: int, limits: SpendingLimits) -> CostCenter:
    """Set the spending limit, in credits; raise InvalidInputError below what the account may have."""
    check_limit(account, current.billing_strategy, spending_limit, limits)
    return replace(current, version=current.version + 1, spending_limit=spending_limit)


def switch_strategy(
    current: CostCenter,
    account: Account,
    strategy: BillingStrategy,
    *,
    spending_limit: int,
    limits: SpendingLimits,
    at: datetime,
) -> CostCenter:
    """Switch who settles the balance; a switch starts a cycle now."""
    check_limit(account, strategy, spending_limit, limits)
    return replace(
        current,
        version=current.version + 1,
        billing_strategy=strategy,
        spending_limit=spending_limit,
        cycle=Cycle(anchor_at=at, number=0),
    )


def covered_by_reset(balance: CreditCents, spending_limit: int) -> CreditCents:
    """Return the part of a balance that the allowance of one cycle covers. The rest is carried over."""
    return CreditCents(max(0, min(balance, spending_limit * CENTS_PER_CREDIT)))


def check_limit(account: Account, strategy: BillingStrategy, spending_limit: int, limits: SpendingLimits) -> None:
    """Raise InvalidInputError for a limit, in credits, that an account may not have on a strategy."""
    if not 0 <= spending_limit <= SPENDING_LIMIT_MAX:
        raise InvalidInputError("spending_limit", spending_limit, f"from 0 to {SPENDING_LIMIT_MAX} credits")
    paying_user = strategy is BillingStrategy.STRIPE and account.kind is AccountKind.USER
    if paying_user and spending_limit < limits.min_for_users_on_stripe:
        allowed = f"at least {limits.min_for_users_on_stripe} for an individual on stripe"
        raise InvalidInputError("spending_limit", spending_limit, allowed)
