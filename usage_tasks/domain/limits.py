"""Where an account stands against its spending limit, what of that is announced, and whether it may start a session.

The same levels are written as set-based SQL in storage/limits/crossings.py; a property test holds the two equal.
Source: docs/semantics.md, Limits and access; docs/adr/0010.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from usage_tasks.domain.credits import CENTS_PER_CREDIT, CreditCents
from usage_tasks.domain.errors import InvalidInputError

THRESHOLD_PERCENT_MAX = 1_000
THRESHOLDS_MAX = 10
GRACE_PERCENT_MAX = 1_000

_ALMOST_PERCENT = 80
_WHOLE_PERCENT = 100


class LimitState(StrEnum):
    """Almost is over 80 % of the limit; reached is all of it, and so for a limit of 0 unless the account has credit."""

    BELOW = "below"
    ALMOST = "almost"
    REACHED = "reached"


class Crossing(StrEnum):
    """An announced event of an account's balance: it rose to a level."""

    THRESHOLD = "threshold"  # some percent of the limit, for people to be warned
    LIMIT = "limit"  # all of the limit
    HARD_LIMIT = "hard_limit"  # the limit and its grace: nothing may start, and running sessions must be stopped


class EntitlementReason(StrEnum):
    """Why an account may or may not start a session."""

    OK = "ok"
    LIMIT_REACHED_WITHIN_GRACE = "limit_reached_within_grace"
    HARD_LIMIT_REACHED = "hard_limit_reached"
    SUSPENDED = "suspended"
    BLOCKED = "blocked"

    @property
    def may_start(self) -> bool:
        """Its hard limit, payments that failed for too long, and a dispute bar an account."""
        return self in {EntitlementReason.OK, EntitlementReason.LIMIT_REACHED_WITHIN_GRACE}


@dataclass(frozen=True, slots=True, kw_only=True)
class HardLimitGrace:
    """How far above the limit the hard limit is: some credits, and some percent of the limit."""

    credits: int = 0
    percent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPolicy:
    """An installation's rules: the thresholds, in percent, of accounts without their own, and the grace of all."""

    thresholds: tuple[int, ...] = (50, 80, 100)
    grace: HardLimitGrace = HardLimitGrace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A balance, in cents, at which something is announced; `percent` is its part of the limit, rounded down."""

    crossing: Crossing
    percent: int | None
    level_cents: int


def limit_state(balance: CreditCents, spending_limit: int) -> LimitState:
    """Compare a balance, in cents, with a spending limit, in credits. Source: docs/semantics.md, Limits and access."""
    limit = limit_cents(spending_limit)
    if balance >= limit:
        return LimitState.REACHED
    if balance * _WHOLE_PERCENT > limit * _ALMOST_PERCENT:
        return LimitState.ALMOST
    return LimitState.BELOW


def limit_cents(spending_limit: int) -> int:
    """Return a limit of credits in cents."""
    return spending_limit * CENTS_PER_CREDIT


def remaining_cents(balance: CreditCents, spending_limit: int) -> int:
    """Return the cents left up to a limit, negative beyond it."""
    return limit_cents(spending_limit) - balance


def hard_limit_cents(spending_limit: int, grace: HardLimitGrace) -> int:
    """Return the balance, in cents, from which on nothing may start. It is exact: one percent of a credit is a cent."""
    return limit_cents(spending_limit + grace.credits) + spending_limit * grace.percent


def list_levels(spending_limit: int, thresholds: Iterable[int], grace: HardLimitGrace) -> list[Level]:
    """List the levels that are announced for a limit, in credits, in the order of their announcements.

    The limit itself always is, whether or not the thresholds name 100. A limit of 0 has no parts, so no thresholds.
    An oracle, as `reached_levels` is.
    """
    parts = sorted({percent for percent in thresholds if percent != _WHOLE_PERCENT and spending_limit > 0})
    levels = [
        Level(crossing=Crossing.THRESHOLD, percent=percent, level_cents=spending_limit * percent) for percent in parts
    ]
    levels.append(Level(crossing=Crossing.LIMIT, percent=_WHOLE_PERCENT, level_cents=limit_cents(spending_limit)))
    hard = hard_limit_cents(spending_limit, grace)
    percent = hard // spending_limit if spending_limit else None
    levels.append(Level(crossing=Crossing.HARD_LIMIT, percent=percent, level_cents=hard))
    order = list(Crossing)
    return sorted(levels, key=lambda level: (level.level_cents, order.index(level.crossing)))


def reached_levels(
    balance: CreditCents, spending_limit: int, thresholds: Iterable[int], grace: HardLimitGrace
) -> list[Level]:
    """List the levels that a balance has reached, lowest first.

    An oracle: production finds them in SQL only, storage/limits/crossings.py, and never calls this function;
    tests/limits/test_crossings.py holds the two equal.
    """
    return [level for level in list_levels(spending_limit, thresholds, grace) if level.level_cents <= balance]


def judge(balance: CreditCents, spending_limit: int, grace: HardLimitGrace) -> EntitlementReason:
    """Decide whether an account with this balance may start a session, on any billing strategy."""
    if balance >= hard_limit_cents(spending_limit, grace):
        return EntitlementReason.HARD_LIMIT_REACHED
    if balance >= limit_cents(spending_limit):
        return EntitlementReason.LIMIT_REACHED_WITHIN_GRACE
    return EntitlementReason.OK


def check_thresholds(thresholds: Sequence[int]) -> tuple[int, ...]:
    """Return the thresholds in rising order, each once. Raises InvalidInputError for a value that is not allowed."""
    if len(thresholds) > THRESHOLDS_MAX or not all(0 < each <= THRESHOLD_PERCENT_MAX for each in thresholds):
        allowed = f"at most {THRESHOLDS_MAX} whole percents from 1 to {THRESHOLD_PERCENT_MAX}"
        raise InvalidInputError("thresholds", list(thresholds), allowed)
    return tuple(sorted(set(thresholds)))
