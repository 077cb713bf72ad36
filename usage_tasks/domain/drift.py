"""Drift: per account, compare the ledger's credits, the credits that we sent, and the count of Stripe's meter."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.payments import StripeCustomerId

_MINUTE: Final = timedelta(minutes=1)


class DriftKind(StrEnum):
    """The two numbers that differ."""

    METER = "meter"
    """The count of Stripe's meter differs from the quantity that we sent and Stripe accepted."""
    UNREADABLE = "unreadable"
    """Stripe did not return the count of its meter for this customer."""
    UNREPORTED = "unreported"
    """The ledger has differed from the quantity that we sent for longer than one round of the sync takes."""
    PARKED = "parked"
    """The account gets no reports until somebody releases it."""
    UNBILLABLE = "unbillable"
    """The account pays through Stripe, owes, and has no open subscription that could bill it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterStanding:
    """A paying account: its latest report that Stripe has had time to count, and the reports after it.

    Without such a report in the cycle, `as_of` and `identifier` are None and `quantity` is 0. `next_as_of` is the next
    report, sent or not, which the meter must not be asked beyond. `latest`: nothing is sent or to be sent after it.
    `ending`: Stripe has ended its subscription and the last invoice is awaited; nothing more is reported.
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
    """An account with drift: the ledger's quantity, the reported one, and Stripe's (None if Stripe was not asked)."""

    attribution_id: AttributionId
    kind: DriftKind
    ledger: int
    sent: int
    stripe: Decimal | None = None
    reason: str = ""


def window_of(standing: MeterStanding, *, at: datetime) -> tuple[datetime, datetime] | None:
    """Return the whole minutes in which the meter's last value is the standing's quantity, or None before the first.

    The window begins with the report's own minute, in which it is the last, and ends with the minute of the next
    report. Before the first report of a cycle the meter must be silent, from the cycle's first whole minute on: the
    closing report of the previous cycle is dated within the minute that the border cuts.
    """
    start = _ceil(standing.cycle_started_at) if standing.as_of is None else _floor(standing.as_of)
    end = _floor(at if standing.next_as_of is None else min(at, standing.next_as_of))
    return (start, end) if start < end else None


def _floor(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _ceil(moment: datetime) -> datetime:
    floor = _floor(moment)
    return floor if floor == moment else floor + _MINUTE
