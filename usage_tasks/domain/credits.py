"""Credits are what customers see; credit cents, 1/100 credit, are what is stored and added."""

from decimal import ROUND_HALF_UP, Decimal
from typing import NewType

CreditCents = NewType("CreditCents", int)

CENTS_PER_CREDIT = 100


def credits_to_cents(amount: Decimal) -> CreditCents:
    """Turn credits into whole credit cents, half a cent away from zero.

    Raises decimal.InvalidOperation for an amount that is not finite. Source: SEMANTICS, Numbers.
    """
    return CreditCents(int((amount * CENTS_PER_CREDIT).to_integral_value(rounding=ROUND_HALF_UP)))


def cents_to_credits(cents: int) -> Decimal:
    """Turn credit cents into credits, exactly."""
    return Decimal(cents).scaleb(-2)


def billable_quantity(balance: CreditCents) -> int:
    """Tell how many whole credits Stripe is to bill for a balance: rounded up, never below zero."""
    return max(0, -(-balance // CENTS_PER_CREDIT))
