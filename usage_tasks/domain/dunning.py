"""Dunning: how long an account whose payment failed is waited for, reminded, and then suspended."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class DunningState(StrEnum):
    """Where an account with a failed payment stands; one without has no state."""

    GRACE = "grace"
    REMINDER = "reminder"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True, kw_only=True)
class DunningPolicy:
    """From the first payment that failed: silence for `grace`, then a reminder every `reminder_every`, then the end."""

    grace: timedelta
    reminder_every: timedelta
    suspend_after: timedelta
