"""Usage over a range: what a session had accrued by one instant, less what it had by another, so that parts sum up.

An oracle: production computes usage reports in SQL only, storage/ledger/usage_report.py, and never calls this module;
tests/ledger/test_usage_report.py holds the two equal.
Source: docs/adr/0014-usage-reports.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.rating import PriceVersion, rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Accrued:
    """Credit cents and whole seconds of a session."""

    credit_cents: CreditCents
    seconds: int


def accrued(
    started_at: datetime, ended_at: datetime | None, versions: Sequence[PriceVersion], *, until: datetime
) -> Accrued:
    """Return the price of a session if it had stopped at an instant, or at its own end if that is earlier.

    It is 0 up to the start, never falls after it, and ends at the session's price. A minimum accrues with the first
    second, a step as it begins. Raises ValueError if no version covers the start.
    """
    rating = rate(started_at, until if ended_at is None else min(until, ended_at), versions)
    return Accrued(credit_cents=rating.credit_cents, seconds=rating.runtime_seconds)


def split(
    started_at: datetime, ended_at: datetime | None, versions: Sequence[PriceVersion], cuts: Sequence[datetime]
) -> list[Accrued]:
    """Return a session's share of each part of time between two neighbouring cuts. `cuts` are in rising order."""
    at_cuts = [accrued(started_at, ended_at, versions, until=cut) for cut in cuts]
    return [
        Accrued(
            credit_cents=CreditCents(after.credit_cents - before.credit_cents), seconds=after.seconds - before.seconds
        )
        for before, after in pairwise(at_cuts)
    ]
