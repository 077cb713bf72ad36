"""The types of values in messages: what is allowed, and how an error names a bad value."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from usage_tasks.domain.accounts import (
    DISPLAY_NAME_LENGTH_MAX,
    EXTERNAL_ID_LENGTH_MAX,
    AccountKind,
    NameKind,
    is_plain,
    parse_actor,
    parse_id,
)
from usage_tasks.domain.cost_centers import SPENDING_LIMIT_MAX
from usage_tasks.domain.credits import CREDITS_PATTERN, CreditCents, parse_credits
from usage_tasks.domain.errors import InvalidInputError, show
from usage_tasks.domain.prices import (
    CREDITS_PER_MINUTE_MAX,
    FRACTIONAL_DIGITS_MAX,
    MINIMUM_CREDITS_MAX,
    ROUNDING_STEP_MAX,
    parse_amount,
)

_FIRST_YEAR, _LAST_YEAR = 1970, 9000
# A value in canonical form is recognised fast: a batch has thousands of them.
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ATTRIBUTION: Final = re.compile(rf"(?:team|user):{_UUID.pattern}")
_ACCOUNT_KINDS: Final = {f"{kind}:": NameKind(kind) for kind in AccountKind}
_DATE_AND_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")
NAME_LENGTH_MAX = 255


def _iso_text(value: object) -> object:
    # pydantic takes a text of digits for seconds since 1970: 20260101 would be a day in August of that year.
    if not isinstance(value, datetime) and not (isinstance(value, str) and _DATE_AND_TIME.match(value)):
        raise ValueError(f"must be an ISO 8601 text with an offset, such as 2026-01-31T12:00:00Z (got {show(value)})")
    return value


def _as_utc(value: datetime) -> datetime:
    # The first look keeps the conversion from running out of the years that there are.
    if _FIRST_YEAR - 1 <= value.year <= _LAST_YEAR:
        utc = value.astimezone(UTC)
        if utc.year >= _FIRST_YEAR:
            return utc
    raise ValueError(f"must be in the years from {_FIRST_YEAR} to {_LAST_YEAR} (got {value.isoformat()})")


def _plain(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"must be printable text (got {show(value)})")
    return value


def _flag(value: object) -> bool:
    # pydantic would take "off", "no" and 0 for false, and "on", "yes" and 1 for true: a typing error would decide.
    if isinstance(value, bool):
        return value
    shown = show(value) if isinstance(value, str | int | float) else type(value).__name__
    raise PydanticCustomError("usage_flag", "must be true or false (got {shown})", {"shown": shown})


def _id_text(value: str, *, kind: NameKind, hidden: bool = False) -> str:
    if _UUID.fullmatch(value):
        return value
    try:
        return parse_id(value, kind)
    except ValueError as error:
        raise ValueError(f"must be {error} (got {'text that is not shown' if hidden else show(value)})") from None


def _attribution_text(value: str) -> str:
    if _ATTRIBUTION.fullmatch(value):
        return value
    kind, colon, entity = value.partition(":")
    prefix = kind + colon
    if prefix not in _ACCOUNT_KINDS:
        raise ValueError(f"must be team:<id> or user:<id> (got {show(value)})")
    try:
        return parse_id(entity, _ACCOUNT_KINDS[prefix], prefix=prefix)
    except ValueError as error:
        raise ValueError(f"must be {prefix}<id>, with an id that is {error} (got {show(value)})") from None


def _actor_text(value: str) -> str:
    if value.startswith("user:"):
        return _attribution_text(value)
    try:
        return parse_actor(value)
    except InvalidInputError:
        raise ValueError(f"must be user:<id> or service:<name> (got {show(value)})") from None


def _credit_cents(value: object, *, zero: bool = False) -> CreditCents:
    try:
        return parse_credits(value if isinstance(value, str) else "", zero=zero)
    except InvalidInputError as error:
        raise ValueError(f"must be {error.allowed} (got {show(value)})") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_iso_text), AfterValidator(_as_utc)]
"""An instant: ISO 8601 with an offset."""

Flag = Annotated[bool, BeforeValidator(_flag)]
"""True or false, and nothing that only looks like it."""

PRINTABLE: Final = AfterValidator(_plain)
"""For any text that PostgreSQL is to store or to compare: NUL is among what cannot be printed."""

Name = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=NAME_LENGTH_MAX), PRINTABLE]
_ID_LENGTHS: Final = {"type": "string", "minLength": 1, "maxLength": EXTERNAL_ID_LENGTH_MAX}
SessionId = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(partial(_id_text, kind=NameKind.SESSION)),
    WithJsonSchema(_ID_LENGTHS | {"description": "a UUID, or the platform's own id of the session"}),
]
"""A UUID or an external id, as an ExternalId (docs/adr/0035); so in each of the following types."""

UserId = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(partial(_id_text, kind=NameKind.USER)),
    WithJsonSchema(_ID_LENGTHS | {"description": "a UUID, or the platform's own id of the user"}),
]
HiddenUserId = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(partial(_id_text, kind=NameKind.USER, hidden=True)),
    WithJsonSchema(_ID_LENGTHS | {"description": "a UUID, or the platform's own id of the user"}),
]
"""The same, where an error does not repeat the value: it might be what belongs in another field, such as an e-mail."""

HiddenTeamId = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(partial(_id_text, kind=NameKind.TEAM, hidden=True)),
    WithJsonSchema(_ID_LENGTHS | {"description": "a UUID, or the platform's own id of the team"}),
]
Attribution = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(_attribution_text),
    WithJsonSchema({"type": "string", "description": "team:<id> or user:<id>"}),
]
ActorText = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(_actor_text),
    WithJsonSchema({"type": "string", "description": "who asks: user:<id> or service:<name>"}),
]


def _price(value: object) -> Decimal:
    return _amount(value, CREDITS_PER_MINUTE_MAX, FRACTIONAL_DIGITS_MAX)


def _minimum(value: object) -> Decimal:
    return _amount(value, MINIMUM_CREDITS_MAX, 2)


def _amount(value: object, largest: Decimal, fractional_digits_max: int) -> Decimal:
    # Text, not a number: JSON's 0.1 would have become a float on its way.
    if not isinstance(value, str):
        raise ValueError(f'must be a text such as "0.5" (got {show(value)})')
    return parse_amount(value, largest=largest, fractional_digits_max=fractional_digits_max)


_AMOUNT_SCHEMA: Final = WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"})
PriceText = Annotated[Decimal, BeforeValidator(_price), _AMOUNT_SCHEMA]
"""Credits per minute, exactly, as text."""

MinimumText = Annotated[Decimal, BeforeValidator(_minimum), _AMOUNT_SCHEMA]
"""A minimum charge in credits, exactly, as text."""

RoundingSeconds = Annotated[int, Field(strict=True, ge=1, le=ROUNDING_STEP_MAX // timedelta(seconds=1))]
_CREDIT_SCHEMA: Final = WithJsonSchema(
    {"type": "string", "pattern": f"^{CREDITS_PATTERN}$", "description": "credits as decimal text, such as 12.50"}
)
CreditText = Annotated[CreditCents, BeforeValidator(_credit_cents), _CREDIT_SCHEMA]
"""An amount of credits that is not 0: decimal text on the wire, credit cents inside."""

CapText = Annotated[CreditCents, BeforeValidator(partial(_credit_cents, zero=True)), _CREDIT_SCHEMA]
"""The same, and 0 is one."""


def _display_name(value: str) -> str:
    if not is_plain(value, DISPLAY_NAME_LENGTH_MAX):
        allowed = f"1 to {DISPLAY_NAME_LENGTH_MAX} printable characters, in Unicode's form NFC, no space at either end"
        raise ValueError(f"must be {allowed} (got text that is not shown)")
    return value


DisplayName = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(_display_name),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": DISPLAY_NAME_LENGTH_MAX}),
]
"""A name for people to read."""

Description = Annotated[
    str,
    StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=NAME_LENGTH_MAX),
    PRINTABLE,
]


Credits = Annotated[int, Field(strict=True, ge=0, le=SPENDING_LIMIT_MAX)]
"""A limit in whole credits."""
