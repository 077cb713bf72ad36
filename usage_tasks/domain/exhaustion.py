"""When will what runs now have used up the rest of the limit? Exact to the second, future prices included."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.rating import SECOND, PriceVersion, rate

LOOK_AHEAD_MAX = timedelta(days=3_653)
"""An exhaustion more than ten years ahead counts as never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accrual:
    """A session that goes on costing: until `ended_at` where that is known, at its class's prices in rising order."""

    started_at: datetime
    ended_at: datetime | None
    versions: Sequence[PriceVersion]

    def cents_until(self, at: datetime) -> CreditCents:
        """Price what will have run by an instant."""
        until = at if self.ended_at is None else min(at, self.ended_at)
        if until <= self.started_at:
            return CreditCents(0)
        return rate(self.started_at, until, self.versions).credit_cents


def find_exhaustion(
    accruals: Sequence[Accrual], *, balance: CreditCents, limit_cents: int, at: datetime, before: datetime
) -> datetime | None:
    """Return the earliest whole second from `at` on, and before `before`, at which the balance is at the limit.

    `balance` is the live one at `at`. None if the running sessions do not reach it in time. A balance that has
    reached the limit already gives the first whole second.
    """
    first = ceil_second(at)
    if balance >= limit_cents:
        return first
    before = min(before, at + LOOK_AHEAD_MAX)
    last = -((first - before) // SECOND) - 1
    spent = sum(each.cents_until(at) for each in accruals)

    def balance_after(seconds: int) -> int:
        until = first + seconds * SECOND
        return balance - spent + sum(each.cents_until(until) for each in accruals)

    found = first_at_least(limit_cents, balance_after, last=last)
    return None if found is None else first + found * SECOND


def ceil_second(at: datetime) -> datetime:
    """Return an instant that is a whole second, or the first whole second after it."""
    return at if at.microsecond == 0 else at.replace(microsecond=0) + SECOND


def first_at_least(target: int, rising: Callable[[int], int], *, last: int) -> int | None:
    """Return the least n from 0 to `last` with rising(n) >= target, for a function that never falls, or None.

    Costs are nearly straight lines: each round looks on both sides of where a line would cross, then in the middle,
    so that a straight one takes few looks and a bent one no more than a few times those of halving.
    """
    if last < 0 or (at_reached := rising(last)) < target:
        return None
    below, reached = 0, last
    at_below = rising(below)
    if at_below >= target:
        return 0
    while reached - below > 1:
        width = reached - below
        crossing = below + (target - at_below) * width // (at_reached - at_below)
        margin = 1 + (width >> 10)
        for look in (crossing - margin, crossing + margin, None):
            n = (below + reached) // 2 if look is None else look
            if not below < n < reached:
                continue
            value = rising(n)
            if value >= target:
                reached, at_reached = n, value
            else:
                below, at_below = n, value
    return reached
