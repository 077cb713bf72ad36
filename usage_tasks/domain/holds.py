"""A hold: a small amount that a card is shown to be good for, and that is never taken.

Source: docs/semantics.md, Stripe, hold.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NewType

from usage_tasks.domain.payments import StripeCustomerId

PaymentIntentId = NewType("PaymentIntentId", str)

HOLD_OPEN_MAX: Final = timedelta(hours=1)
"""How long a payer may take to confirm it; a sweep releases it then."""

_CONFIRMED: Final = "requires_capture"
_OVER: Final = frozenset({"canceled", "succeeded"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A hold as Stripe has it now. Secrets for the browser and words of the bank are kept out of its text form."""

    payment_intent_id: PaymentIntentId
    customer_id: StripeCustomerId | None
    status: str
    client_secret: str = field(repr=False)
    payment_method_id: str | None = field(repr=False)
    decline_code: str | None = None
    """The bank's reason for declining the latest attempt, if it declined."""

    @property
    def is_confirmed(self) -> bool:
        """Whether the card is good for it."""
        return self.status == _CONFIRMED

    @property
    def is_over(self) -> bool:
        """Whether nothing is held, and nothing will be."""
        return self.status in _OVER
