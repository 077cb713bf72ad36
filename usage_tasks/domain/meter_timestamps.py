"""Which timestamps Stripe takes for a meter event, by Stripe's own clock, and how long a report that is early waits.

Source: https://docs.stripe.com/api/billing/meter-event/create#create_billing_meter_event-timestamp
"""

from datetime import datetime, timedelta
from typing import Final

AHEAD_MAX: Final = timedelta(minutes=5)
AGE_MAX: Final = timedelta(days=35)

WAIT_UNKNOWN: Final = timedelta(minutes=5)
"""How long a report waits that is early by a clock that Stripe's answer did not show."""

WAIT_MAX: Final = timedelta(hours=1)
"""A report that waits longer asks again: a wrong clock may have been set right. So does each sync, for all of them."""

_SLACK: Final = timedelta(seconds=5)
"""Stripe shows its clock in whole seconds, and its machines may differ."""


def is_too_old(as_of: datetime, *, stripe_at: datetime | None) -> bool:
    """Return True if a timestamp that Stripe refused is too old, and False if it is too far in the future.

    It is one or the other, and they lie 35 days apart: the middle between them decides, however wrong a clock is.
    """
    return stripe_at is not None and stripe_at - as_of > AGE_MAX / 2


def wait_until_taken(as_of: datetime, *, stripe_at: datetime | None) -> timedelta:
    """Return how long Stripe refuses a timestamp that is too far in its future; zero where it takes it now."""
    if stripe_at is None:
        return WAIT_UNKNOWN
    missing = as_of - AHEAD_MAX - stripe_at
    return min(missing + _SLACK, WAIT_MAX) if missing > timedelta(0) else timedelta(0)
