"""Does Stripe's meter say what we sent, and did we send what the ledger says? Three numbers an account, in credits."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.payments import StripeCustomerId

_MINUTE: Final = timedelta(minutes=1)


class DriftKind(StrEnum):
    """What differs."""

    METER = "meter"
    """Stripe's meter says other than what we sent and Stripe took."""
    UNREADABLE = "unreadable"
    """Stripe would not say what its meter counted for this customer."""
    UNREPORTED = "unreported"
    """The ledger has said other than what we sent for longer than a sync takes to come round."""
    PARKED = "parked"
    """The account gets no reports until somebody releases it."""
    UNBILLABLE = "unbillable"
    """The account pays through Stripe, owes, and has no open subscription that could bill it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterStanding:
    """What is known of a paying account: its latest report that Stripe has had time to count, and what came after it.

    Without such a report in the cycle, `as_of` and `identifier` are None and `quantity` is 0. `next_as_of` is the next
    report, sent or not, which the meter must not be asked beyond. `latest`: nothing is sent or to be sent after it.
    `ending`: Stripe has ended its subscription, and its last invoice is waited for; nothing more is told.
    """

    attribution_id: AttributionId
    customer_id: StripeCustomerId | None
    subscribed: bool
    parked: bool
    cycle_started_at: datetime
    identifier: str | None
    as_of: datetime | None
    quantity: int
    next_as_of: datetime | None
    latest: bool
    ending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """An account that is astray: the ledger's quantity, what was told, and Stripe's (None: it was not asked)."""

    attribution_id: AttributionId
    kind: DriftKind
    ledger: int
    sent: int
    stripe: Decimal | None = None
    reason: str = ""


def window_of(standing: MeterStanding, *, at: datetime) -> tuple[datetime, datetime] | None:
    """The whole minutes in which the meter's last value is the standing's quantity; None where there are none yet.

    From the report's own minute, in which it is the last, to the minute of the next one. Before the first report of a
    cycle the meter must be silent: from its first whole minute, for the closing report of the cycle before is dated
    within the one that is cut.
    """
    start = _ceil(standing.cycle_started_at) if standing.as_of is None else _floor(standing.as_of)
    end = _floor(at if standing.next_as_of is None else min(at, standing.next_as_of))
    return (start, end) if start < end else None


def _floor(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _ceil(moment: datetime) -> datetime:
    floor = _floor(moment)
    return floor if floor == moment else floor + _MINUTE
