"""The price of a session: seconds under each price in force, added exactly, rounded once.

The same rule is written as set-based SQL in storage/pricing/rating_sql.py; a property test holds the two equal.
Source: docs/adr/0001-money-and-rating.md; steps and minimums docs/adr/0009-price-rules.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from usage_tasks.domain.credits import CreditCents

SECOND = timedelta(seconds=1)
_HALF_SECOND = timedelta(milliseconds=500)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeRule:
    """The rules of a class beside its price: a minimum charge, and steps of time that are charged whole."""

    minimum_cents: CreditCents
    rounding_seconds: int


PER_SECOND = ChargeRule(minimum_cents=CreditCents(0), rounding_seconds=1)
"""No minimum, to the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceVersion:
    """One price of a workspace class, in force from an instant until the next version's."""

    effective_from: datetime
    credits_per_minute: Decimal
    rule: ChargeRule = PER_SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedSpan:
    """Seconds that are charged by one version."""

    version: PriceVersion
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """The price of a session, with its parts. `runtime_seconds` ran; the seconds of `spans`, in whole steps, count."""

    runtime_seconds: int
    rule: ChargeRule
    spans: tuple[RatedSpan, ...]

    @property
    def exact(self) -> Fraction:
        """S: seconds x credits per minute, summed exactly."""
        return sum((span.seconds * Fraction(span.version.credits_per_minute) for span in self.spans), Fraction(0))

    @property
    def metered_cents(self) -> CreditCents:
        """S in credit cents, rounded once, before the minimum."""
        return to_cents(self.exact)

    @property
    def credit_cents(self) -> CreditCents:
        """The charge: at least the minimum as soon as a second ran."""
        return max(self.metered_cents, self.rule.minimum_cents) if self.runtime_seconds else CreditCents(0)


def to_cents(exact: Fraction) -> CreditCents:
    """Turn S, seconds x credits per minute, into credit cents: half a cent rounds up."""
    return CreditCents((10 * exact + 3) // 6)


def elapsed_seconds(started_at: datetime, until: datetime) -> int:
    """Count whole seconds from a start to an instant, to the nearest, half up; 0 if the instant is earlier."""
    return max(timedelta(0), until - started_at + _HALF_SECOND) // SECOND


def rate(started_at: datetime, ended_at: datetime, versions: Sequence[PriceVersion]) -> Rating:
    """Rate a session by its class's versions, in rising order. The version at the start gives step and minimum.

    Where the price changed the runtime is cut. Each edge is rounded as an elapsed time from the start, so that no
    second is lost or counted twice, then up to a whole step: a step is charged at the price in force as it begins.
    Raises ValueError if no version covers the start.
    """
    if not versions or versions[0].effective_from > started_at:
        raise ValueError(f"prices: no version is in force at {started_at.isoformat()}")
    rule = [version.rule for version in versions if version.effective_from <= started_at][-1]

    def charged(until: datetime) -> int:
        return -(-elapsed_seconds(started_at, until) // rule.rounding_seconds) * rule.rounding_seconds

    spans = []
    for version, following in zip(versions, [*versions[1:], None], strict=True):
        begin = max(version.effective_from, started_at)
        end = ended_at if following is None else min(following.effective_from, ended_at)
        if end > begin:
            spans.append(RatedSpan(version=version, seconds=charged(end) - charged(begin)))
    return Rating(runtime_seconds=elapsed_seconds(started_at, ended_at), rule=rule, spans=tuple(spans))


# An oracle, which production never calls: it sums usage over a range in SQL, storage/ledger/usage_report.py, and
# tests/ledger/test_usage_report.py holds the two equal. Source: docs/adr/0014-usage-reports.md.


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
