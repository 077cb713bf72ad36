"""What a session costs: seconds under each price in force, added exactly, rounded once.

The same rule stands once more as set-based SQL in storage/rating.py; a property test holds the two equal.
Source: docs/adr/0001-money-and-rating.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from usage_tasks.domain.credits import CreditCents

SECOND = timedelta(seconds=1)
_HALF_SECOND = timedelta(milliseconds=500)


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedSpan:
    """Whole seconds that ran at one price, in credits per minute."""

    seconds: int
    credits_per_minute: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceVersion:
    """One price of a workspace class, in force from an instant until the next version's."""

    effective_from: datetime
    credits_per_minute: Decimal


def price(spans: Iterable[PricedSpan]) -> CreditCents:
    """Price what ran, span by span, and round once: half a cent rounds up.

    With S the exact sum of seconds x credits per minute, cents = floor((10 S + 3) / 6).
    Raises ValueError for a negative span.
    """
    exact = Fraction(0)
    for span in spans:
        if span.seconds < 0:
            raise ValueError(f"seconds: {span.seconds} is not allowed: a span is never negative")
        exact += span.seconds * Fraction(span.credits_per_minute)
    return CreditCents((10 * exact + 3) // 6)


def elapsed_seconds(started_at: datetime, until: datetime) -> int:
    """Count whole seconds from a start to an instant, to the nearest, half up; 0 where the instant is earlier."""
    return max(timedelta(0), until - started_at + _HALF_SECOND) // SECOND


def split_at_prices(started_at: datetime, ended_at: datetime, versions: Sequence[PriceVersion]) -> list[PricedSpan]:
    """Cut a runtime where its class's price changed; the parts' seconds sum to the whole's.

    Each edge is rounded as an elapsed time from the start, so that no second is lost or counted twice.
    `versions` are one class's, in rising order. Raises ValueError where none covers the start.
    """
    if not versions or versions[0].effective_from > started_at:
        raise ValueError(f"prices: no version is in force at {started_at.isoformat()}")
    spans = []
    for version, following in zip(versions, [*versions[1:], None], strict=True):
        begin = max(version.effective_from, started_at)
        end = ended_at if following is None else min(following.effective_from, ended_at)
        if end > begin:
            seconds = elapsed_seconds(started_at, end) - elapsed_seconds(started_at, begin)
            spans.append(PricedSpan(seconds=seconds, credits_per_minute=version.credits_per_minute))
    return spans
