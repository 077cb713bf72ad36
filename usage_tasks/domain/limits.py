"""Where an account stands against its spending limit."""

from enum import StrEnum

from usage_tasks.domain.credits import CENTS_PER_CREDIT, CreditCents

_ALMOST_PERCENT = 80
_WHOLE_PERCENT = 100


class LimitState(StrEnum):
    """Almost is over 80 % of the limit; reached is all of it, and so for a limit of 0 unless the account has credit."""

    BELOW = "below"
    ALMOST = "almost"
    REACHED = "reached"


def limit_state(balance: CreditCents, spending_limit: int) -> LimitState:
    """Compare a balance, in cents, with a spending limit, in credits. Source: SEMANTICS, Limits and access."""
    limit = spending_limit * CENTS_PER_CREDIT
    if balance >= limit:
        return LimitState.REACHED
    if balance * _WHOLE_PERCENT > limit * _ALMOST_PERCENT:
        return LimitState.ALMOST
    return LimitState.BELOW
