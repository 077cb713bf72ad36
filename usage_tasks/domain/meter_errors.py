"""The reaction to a meter event that Stripe accepted and could not count.

Source of the codes: https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api#handle-meter-event-errors
"""

from datetime import timedelta
from enum import StrEnum
from typing import Final

RESENDS_MAX: Final = 3
_PAUSES: Final = (timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6))

# Nobody's account is at fault: the meter is missing or was switched off.
_PASSING: Final = frozenset({"no_meter", "archived_meter"})
# The same holds if our clock is ahead of Stripe's: that passes by itself, however long it takes.
_TOO_EARLY: Final = "timestamp_in_future"
_TOO_LATE: Final = "timestamp_too_far_in_past"


class MeterErrorVerdict(StrEnum):
    """The next state of a report whose event failed."""

    SEND_ANEW = "send_anew"
    DROP = "drop"
    """Its period is over and billed without it. Its usage is still open in the ledger, and the next report includes it.
    """
    PARK = "park"


def judge_meter_error(code: str, *, resends: int) -> tuple[MeterErrorVerdict, timedelta]:
    """Return the verdict on a report by the error's code, and the wait. Reports with unknown codes are parked."""
    if code == _TOO_LATE:
        return MeterErrorVerdict.DROP, timedelta(0)
    if code == _TOO_EARLY:
        return MeterErrorVerdict.SEND_ANEW, _PAUSES[min(resends, len(_PAUSES) - 1)]
    if code in _PASSING and resends < RESENDS_MAX:
        return MeterErrorVerdict.SEND_ANEW, _PAUSES[resends]
    return MeterErrorVerdict.PARK, timedelta(0)
