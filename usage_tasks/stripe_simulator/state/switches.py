"""The switches of a running simulator: how webhooks travel, when meters report errors, how search lags.

Kept in memory: a restarted simulator behaves well again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Checked = TypeVar("Checked", bound=DataclassInstance)

WINDOW_MAX = 1000
SECONDS_MAX = 120
LAG_SECONDS_MAX = 86400
SECRETS_MAX = 5
METER_ERRORS = (
    "archived_meter",
    "meter_event_customer_not_found",
    "meter_event_dimension_count_too_high",
    "meter_event_invalid_value",
    "meter_event_no_customer_defined",
    "meter_event_value_too_many_digits",
    "missing_dimension_payload_keys",
    "no_meter",
    "timestamp_in_future",
    "timestamp_too_far_in_past",
)


def option(default: object, *, says: str, check: Callable[[Any], bool]) -> Any:
    """A field that JSON may set: its default, what it must be, in words and as a check."""
    return field(default=default, metadata={"says": says, "check": check})


def is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def number(default: float | None, high: float) -> Any:
    """A number from 0; None means that there is a default that depends."""
    says = f"a number from 0 to {high}"
    return option(default=default, says=says, check=lambda value: is_number(value, 0, high))


def integer(default: int, low: int, high: int) -> Any:
    says = f"an integer from {low} to {high}"
    return option(default=default, says=says, check=lambda value: is_integer(value, low, high))


def flag() -> Any:
    return option(default=False, says="true or false", check=lambda value: isinstance(value, bool))


def _secrets() -> Any:
    def check(value: object) -> bool:
        return isinstance(value, list | tuple) and len(value) <= SECRETS_MAX and all(isinstance(s, str) for s in value)

    return option(default=(), says=f"a list of at most {SECRETS_MAX} texts", check=check)


def checked(current: "Checked", body: object) -> "Checked":
    """The options with those of a JSON object changed; raises ValueError that names the first one at fault."""
    if not isinstance(body, dict):
        raise ValueError("A JSON object is needed.")
    known = {one.name: one for one in fields(current) if one.metadata}
    for name, value in body.items():
        if name not in known:
            raise ValueError(f"Unknown option: {name}. There are: {', '.join(sorted(known))}.")
        if not known[name].metadata["check"](value):
            raise ValueError(f"{name} must be {known[name].metadata['says']}.")
    return replace(current, **body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """How webhooks travel. With all defaults: each event once, at once, in the order of events."""

    duplicate: float = number(0, 1)
    """How likely a delivered event is sent again."""
    twin: float = number(0, 1)
    """How likely a fact becomes two events with ids of their own."""
    window: int = integer(1, 1, WINDOW_MAX)
    """The next event is any of so many oldest ones; above 1, a failing one holds nothing back, as at Stripe."""
    delay_seconds: float = number(0, SECONDS_MAX)
    """Each delivery waits a random time up to this, in real seconds."""
    paused: bool = flag()
    tried_seconds: int | None = option(
        default=None,
        says="an integer from 1, or null",
        check=lambda value: value is None or is_integer(value, 1, 2**31),
    )
    """So long after it an event is given up, by the simulator's clock: at Stripe after three days; null: never."""
    seed: int = integer(0, 0, 2**31)
    secrets: tuple[str, ...] = _secrets()
    """Each delivery carries a signature by each of them: two while a secret is rolled."""
    thin_secrets: tuple[str, ...] = _secrets()


def _is_rejection(value: object) -> bool:
    return isinstance(value, Mapping) and all(code in METER_ERRORS for code in value.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """When a meter complains of an event that it can't count."""

    errors_later: bool = flag()
    """False: a bad event is refused with 400. True: it is accepted with 200 and reported by a thin event."""
    report_after_seconds: int = integer(0, 0, LAG_SECONDS_MAX)
    """How long errors are collected, by the simulator's clock, before one report lists all."""
    reject: Mapping[str, str] = field(
        default_factory=dict,
        metadata={"says": "an object of customer ids and error codes of Stripe's", "check": _is_rejection},
    )
    """Customers whose events are accepted and then always fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searching:
    """How long a new customer can't be found by search, by the clock the customer lives on."""

    lag_seconds: int = integer(0, 0, LAG_SECONDS_MAX)


@dataclass(slots=True, kw_only=True)
class Switches:
    """The options in force, and the chance that decides which fact gets a twin."""

    mail: Mail = field(default_factory=Mail)
    metering: Metering = field(default_factory=Metering)
    searching: Searching = field(default_factory=Searching)
    twins: Random = field(default_factory=lambda: Random(0))

    def has_twin(self) -> bool:
        return self.mail.twin > 0 and self.twins.random() < self.mail.twin
