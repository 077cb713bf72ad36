"""The single values of the settings: how each is read from JSON and what is refused.

A validator's message never repeats the value, which may be a secret; the loader shows it, masked.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from ipaddress import ip_network
from typing import Annotated, Final
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from usage_tasks.domain.durations import parse_duration
from usage_tasks.domain.limits import THRESHOLD_PERCENT_MAX, THRESHOLDS_MAX
from usage_tasks.domain.prices import (
    CREDITS_PER_MINUTE_MAX,
    FRACTIONAL_DIGITS_MAX,
    MINIMUM_CREDITS_MAX,
    ROUNDING_STEP_MAX,
)
from usage_tasks.domain.states import RESERVED_ENDS, PricedApart
from usage_tasks.settings.database_url import PORT_MAX, parse_database_url
from usage_tasks.settings.redis_url import parse_prefix, parse_redis_url

LIMIT_CREDITS_MAX: Final = 10**12
CALLS_PER_SECOND_MAX: Final = 10_000
SCHEDULE_MAX: Final = timedelta(days=366)
_HOST_AND_PORT: Final = re.compile(r"^(?P<host>[^\s:/@?#\[\]]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})$")


def _schedule(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value:
        return None
    duration = parse_duration(value)
    if not timedelta(0) < duration <= SCHEDULE_MAX:
        raise ValueError("out of range")
    return duration


def _rounding_step(value: object) -> object:
    if not isinstance(value, str):
        return value
    step = parse_duration(value)
    if step % timedelta(seconds=1) or not timedelta(seconds=1) <= step <= ROUNDING_STEP_MAX:
        raise ValueError("out of range")
    return step


def _exact(value: object) -> object:
    # JSON's 1 and 1.0 are the same price; true, which Python counts among the integers, is none.
    return Decimal(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _price(value: Decimal) -> Decimal:
    return _bounded(value, CREDITS_PER_MINUTE_MAX, FRACTIONAL_DIGITS_MAX)


def _minimum(value: Decimal) -> Decimal:
    return _bounded(value, MINIMUM_CREDITS_MAX, fractional_digits_max=2)


def _bounded(value: Decimal, largest: Decimal, fractional_digits_max: int) -> Decimal:
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError("not a number")
    if not 0 <= value <= largest:
        raise ValueError("out of range")
    if exponent < -fractional_digits_max:
        raise ValueError(f"{-exponent} fractional digits")
    return value.copy_abs()


def _class_name(value: str) -> str:
    if value.endswith(RESERVED_ENDS):
        raise ValueError("the end means a state of a class")
    return value


def _web_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("not a web address")
    return value.rstrip("/")


def _uuid(value: str) -> str:
    return str(UUID(value))


def _host_and_port(value: str) -> str:
    found = _HOST_AND_PORT.match(value)
    if not found or not 0 < int(found["port"]) <= PORT_MAX:
        raise ValueError("not host:port")
    return value


def _rising(value: Sequence[int]) -> tuple[int, ...]:
    if len(set(value)) != len(value):
        raise ValueError("one occurs twice")
    return tuple(sorted(value))


def _networks(value: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(ip_network(text)) for text in value)


Text = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^\S(.*\S)?$")]
Currency = Annotated[str, StringConstraints(pattern=r"^[a-z]{3}$")]
Schedule = Annotated[timedelta | None, BeforeValidator(_schedule)]
CreditsPerMinute = Annotated[Decimal, BeforeValidator(_exact), AfterValidator(_price)]
MinimumCredits = Annotated[Decimal, BeforeValidator(_exact), AfterValidator(_minimum)]
RoundingStep = Annotated[timedelta, BeforeValidator(_rounding_step)]
LimitCredits = Annotated[int, Field(ge=0, le=LIMIT_CREDITS_MAX)]
Percent = Annotated[int, Field(ge=1, le=THRESHOLD_PERCENT_MAX)]
Thresholds = Annotated[Sequence[Percent], Field(max_length=THRESHOLDS_MAX), AfterValidator(_rising)]
ClassName = Annotated[Text, AfterValidator(_class_name)]
PricesByClass = Annotated[Mapping[ClassName, CreditsPerMinute], Field(min_length=1)]
PricesByState = Annotated[Mapping[PricedApart, CreditsPerMinute], Field(min_length=1)]
PriceIds = Annotated[Mapping[Currency, Text], Field(min_length=1)]
Networks = Annotated[Sequence[Text], Field(max_length=100), AfterValidator(_networks)]
DatabaseUrl = Annotated[str, AfterValidator(parse_database_url)]
RedisUrl = Annotated[str, AfterValidator(parse_redis_url)]
KeyPrefix = Annotated[str, AfterValidator(parse_prefix)]
InstallationId = Annotated[str, AfterValidator(_uuid)]
HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
WebUrl = Annotated[str, AfterValidator(_web_url)]
