"""Credits are what customers see; credit cents, 1/100 credit, are what is stored and added."""

import re
from decimal import ROUND_HALF_UP, Decimal
from typing import NewType

from usage_tasks.domain.errors import InvalidInputError

CreditCents = NewType("CreditCents", int)

CENTS_PER_CREDIT = 100

CREDITS_MAX = 10**12
"""The most credits that one movement may have. Its cents fit a bigint with room to spare."""

CREDITS_PATTERN = r"-?[0-9]{1,13}(\.[0-9]{1,10})?"
"""Credits as text: plain digits, no exponent."""


def credits_to_cents(amount: Decimal) -> CreditCents:
    """Turn credits into whole credit cents, half a cent away from zero.

    Raises decimal.InvalidOperation for an amount that is not finite. Source: docs/semantics.md, Numbers.
    """
    return CreditCents(int((amount * CENTS_PER_CREDIT).to_integral_value(rounding=ROUND_HALF_UP)))


def parse_credits(text: str, *, field: str = "amount", zero: bool = False) -> CreditCents:
    """Read credits from decimal text, rounded to cents; raise InvalidInputError for other text and, unless asked, 0."""
    amount = Decimal(text) if re.fullmatch(CREDITS_PATTERN, text) else None
    if amount is None or abs(amount) > CREDITS_MAX or not (zero or credits_to_cents(amount)):
        allowed = (
            f"credits as decimal text such as 12.50, {'' if zero else 'not 0, '}from -{CREDITS_MAX} to {CREDITS_MAX}"
        )
        raise InvalidInputError(field, text, allowed)
    return credits_to_cents(amount)


def cents_to_credits(cents: int) -> Decimal:
    """Turn credit cents into credits, exactly."""
    return Decimal(cents).scaleb(-2)


def billable_quantity(balance: CreditCents) -> int:
    """Return the whole credits that Stripe bills for a balance: rounded up, never below zero.

    An oracle: production rounds in SQL, storage/metering/decide.py; tests/metering/test_decide_twin.py
    holds the two equal.
    """
    return max(0, -(-balance // CENTS_PER_CREDIT))
