"""Disputes: a cardholder's bank takes money back, or asks first; whom that blocks, and until when.

Source: docs/semantics.md, Stripe, dispute; docs/adr/0017.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NewType

from usage_tasks.domain.errors import PermanentError, show
from usage_tasks.domain.payments import StripeCustomerId

DisputeId = NewType("DisputeId", str)


class DisputeStatus(StrEnum):
    """How a dispute stands."""

    WARNING_NEEDS_RESPONSE = "warning_needs_response"
    WARNING_UNDER_REVIEW = "warning_under_review"
    WARNING_CLOSED = "warning_closed"
    NEEDS_RESPONSE = "needs_response"
    UNDER_REVIEW = "under_review"
    PREVENTED = "prevented"
    WON = "won"
    LOST = "lost"


SETTLED: Final = frozenset(
    {DisputeStatus.WARNING_CLOSED, DisputeStatus.PREVENTED, DisputeStatus.WON, DisputeStatus.LOST}
)
"""Final states: an older event does not change them."""

FORGIVING: Final = SETTLED - {DisputeStatus.LOST}
"""A dispute that ended in one of these states blocks nobody. A lost dispute blocks until a person decides otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """A dispute as Stripe has it now. `amount` is in currency cents."""

    dispute_id: DisputeId
    customer_id: StripeCustomerId | None
    status: DisputeStatus
    reason: str
    amount: int
    currency: str
    created_at: datetime


def parse_status(text: str) -> DisputeStatus:
    """Return the status. Raises PermanentError for a status that this version does not know."""
    try:
        return DisputeStatus(text)
    except ValueError as error:
        raise PermanentError(
            f"dispute: `status`: must be one of {', '.join(DisputeStatus)} (got {show(text)})"
        ) from error


def follow(known: DisputeStatus | None, seen: DisputeStatus) -> DisputeStatus:
    """Return the status of a dispute that was fetched again. An answer may be older than the last: settled is final."""
    return known if known is not None and known in SETTLED else seen


def blocks(status: DisputeStatus) -> bool:
    """Return True if a dispute of this status blocks the responsible users."""
    return status not in FORGIVING
