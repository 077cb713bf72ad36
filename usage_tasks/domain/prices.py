"""The names and the rules of prices, and how a requested version fits among the existing ones."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final, Literal

from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.errors import InvalidInputError, show
from usage_tasks.domain.rating import PER_SECOND, ChargeRule, PriceVersion

CREDITS_PER_MINUTE_MAX: Final = Decimal(1_000_000)
FRACTIONAL_DIGITS_MAX: Final = 20
MINIMUM_CREDITS_MAX: Final = Decimal(1_000_000)
ROUNDING_STEP_MAX: Final = timedelta(days=1)
_AMOUNT: Final = re.compile(r"[0-9]{1,12}(?:\.(?P<fraction>[0-9]{1,30}))?")
ALL_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""A class's first version holds from here on; no session starts earlier."""


class State(StrEnum):
    """The state of a session: it runs, it stands still in memory, or it is stopped and something of it is kept."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    STOPPED_KEPT = "stopped_kept"


PricedApart = Literal[State.SUSPENDED, State.STOPPED_KEPT]
"""The states that have a price of their own, beside that of the class, which is of the state `running`."""

_PRICED_APART: Final = frozenset(State) - {State.RUNNING}
RESERVED_ENDS: Final = (*(f":{state}" for state in sorted(_PRICED_APART)), ":timeline")
"""No class may end with these: they make the names of other prices, and of none (storage/pricing/timelines_sql.py)."""


def price_key(workspace_class: str, state: State) -> str:
    """Name the price of a class in a state: `large` while it runs, else such as `large:suspended`."""
    return workspace_class if state is State.RUNNING else f"{workspace_class}:{state}"


def split_price_key(key: str) -> tuple[str, State]:
    """Return the class and the state of a price."""
    name, colon, state = key.rpartition(":")
    return (name, State(state)) if colon and state in _PRICED_APART else (key, State.RUNNING)


def list_classes(price_keys: Iterable[str]) -> frozenset[str]:
    """Return the classes among the names of prices: a report may name these and no others."""
    return frozenset(key for key in price_keys if split_price_key(key)[1] is State.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPrice:
    """A version as it is asked for; a minimum or a step that is None stays as it was just before."""

    workspace_class: str
    effective_from: datetime
    credits_per_minute: Decimal
    minimum_cents: CreditCents | None
    rounding_seconds: int | None
    state: State = State.RUNNING

    @property
    def price_key(self) -> str:
        """The name of the price in the table."""
        return price_key(self.workspace_class, self.state)


def parse_amount(text: str, *, largest: Decimal, fractional_digits_max: int) -> Decimal:
    """Return a decimal such as `0.5`, exactly. Raises ValueError with the allowed form."""
    found = _AMOUNT.fullmatch(text)
    if not found or len(found["fraction"] or "") > fractional_digits_max or Decimal(text) > largest:
        raise ValueError(
            f"must be a decimal such as 0.5, from 0 to {largest}, with at most {fractional_digits_max} fractional "
            f"digits (got {show(text)})"
        )
    return Decimal(text)


def decide_version(asked: AskedPrice, standing: Sequence[PriceVersion]) -> PriceVersion:
    """Complete a version that is asked for by the class's standing ones, in rising order.

    Raises InvalidInputError for an instant that has a version already, for a new class's that is not the first,
    and for a class with a name that means something else.
    """
    if asked.workspace_class.endswith(RESERVED_ENDS):
        allowed = f"a class that does not end with {' or '.join(RESERVED_ENDS)}; a state is named apart"
        raise InvalidInputError("workspace_class", asked.workspace_class, allowed)
    before = [version for version in standing if version.effective_from <= asked.effective_from]
    if not before and asked.effective_from != ALL_TIME:
        allowed = f"{ALL_TIME.isoformat()} for the first price of {asked.price_key!r}, which holds for all time"
        raise InvalidInputError("effective_from", asked.effective_from.isoformat(), allowed)
    if before and before[-1].effective_from == asked.effective_from:
        allowed = "an instant without a version of this class (a microsecond later corrects the existing version)"
        raise InvalidInputError("effective_from", asked.effective_from.isoformat(), allowed)
    rule = before[-1].rule if before else PER_SECOND
    return PriceVersion(
        effective_from=asked.effective_from,
        credits_per_minute=asked.credits_per_minute,
        rule=ChargeRule(
            minimum_cents=rule.minimum_cents if asked.minimum_cents is None else asked.minimum_cents,
            rounding_seconds=rule.rounding_seconds if asked.rounding_seconds is None else asked.rounding_seconds,
        ),
    )
