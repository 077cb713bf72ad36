"""The argument types of the tasks: what may come over the wire, and how a bad value is named."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)

from usage_tasks.domain.accounts import AttributionId, parse_actor, parse_attribution, parse_uuid
from usage_tasks.domain.cost_centers import SPENDING_LIMIT_MAX
from usage_tasks.domain.credits import CREDITS_PATTERN, CreditCents, parse_credits
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.prices import (
    CREDITS_PER_MINUTE_MAX,
    FRACTIONAL_DIGITS_MAX,
    MINIMUM_CREDITS_MAX,
    ROUNDING_STEP_MAX,
    parse_amount,
)
from usage_tasks.domain.sessions import Rejection, SessionReport

REPORTS_MAX: Final = 5_000
"""How many reports one message may hold."""

SNAPSHOT_MAX: Final = 20_000
"""How many running sessions one source may list; a snapshot can't be taken apart, a source can."""

_FIRST_YEAR, _LAST_YEAR = 1970, 9000
# What is in its canonical form already is known at a look: a batch has thousands of them.
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ATTRIBUTION: Final = re.compile(rf"(?:team|user):{_UUID.pattern}")
_DATE_AND_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")
NAME_LENGTH_MAX = 255
AHEAD_MAX: Final = timedelta(days=1)


def _iso_text(value: object) -> object:
    # pydantic takes a text of digits for seconds since 1970: 20260101 would be a day in August of that year.
    if not isinstance(value, datetime) and not (isinstance(value, str) and _DATE_AND_TIME.match(value)):
        raise ValueError(
            f"{value!a:.200} is not allowed: an ISO 8601 text with an offset, such as 2026-01-31T12:00:00Z"
        )
    return value


def _as_utc(value: datetime) -> datetime:
    # The first look keeps the conversion from running out of the years that there are.
    if _FIRST_YEAR - 1 <= value.year <= _LAST_YEAR:
        utc = value.astimezone(UTC)
        if utc.year >= _FIRST_YEAR:
            return utc
    raise ValueError(f"{value.isoformat()} is not allowed: from the year {_FIRST_YEAR} to {_LAST_YEAR}")


def _plain(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"{value!a:.200} is not allowed: printable characters only")
    return value


def _uuid_text(value: str) -> str:
    if _UUID.fullmatch(value):
        return value
    try:
        return str(parse_uuid(value))
    except ValueError:
        raise ValueError(
            f"{value!a:.200} is not allowed: a UUID such as 11111111-2222-4333-8444-555555555555"
        ) from None


def _attribution_text(value: str) -> str:
    if _ATTRIBUTION.fullmatch(value):
        return value
    try:
        return parse_attribution(value).attribution_id
    except InvalidInputError as error:
        raise ValueError(f"{value!a:.200} is not allowed: {error.allowed}") from None


def _actor_text(value: str) -> str:
    try:
        return parse_actor(value)
    except InvalidInputError as error:
        raise ValueError(f"{value!a:.200} is not allowed: {error.allowed}") from None


def _credit_cents(value: object, *, zero: bool = False) -> CreditCents:
    try:
        return parse_credits(value if isinstance(value, str) else "", zero=zero)
    except InvalidInputError as error:
        raise ValueError(f"{value!a:.200} is not allowed: {error.allowed}") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_iso_text), AfterValidator(_as_utc)]
"""An instant: ISO 8601 with an offset."""

Name = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=NAME_LENGTH_MAX), AfterValidator(_plain)]
UuidText = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(_uuid_text),
    WithJsonSchema({"type": "string", "format": "uuid"}),
]
Attribution = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(_attribution_text),
    WithJsonSchema({"type": "string", "description": "team:<uuid> or user:<uuid>"}),
]
ActorText = Annotated[
    str,
    StringConstraints(strict=True),
    AfterValidator(_actor_text),
    WithJsonSchema({"type": "string", "description": "who asks: user:<uuid> or service:<name>"}),
]


def _price(value: object) -> Decimal:
    return _amount(value, CREDITS_PER_MINUTE_MAX, FRACTIONAL_DIGITS_MAX)


def _minimum(value: object) -> Decimal:
    return _amount(value, MINIMUM_CREDITS_MAX, 2)


def _amount(value: object, largest: Decimal, fractional_digits_max: int) -> Decimal:
    # Text, not a number: JSON's 0.1 would have become a float on its way.
    if not isinstance(value, str):
        raise ValueError(f'{value!a:.100} is not allowed: a text such as "0.5"')
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

Description = Annotated[
    str,
    StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=NAME_LENGTH_MAX),
    AfterValidator(_plain),
]


class ReportArguments(BaseModel):
    """One report of a session. A running session has neither stopping_at nor stopped_at."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="SessionReport")

    instance_id: UuidText
    workspace_id: Name
    user_id: UuidText
    attribution_id: Attribution
    workspace_class: Name
    started_at: Moment
    created_at: Moment | None = None
    stopping_at: Moment | None = None
    stopped_at: Moment | None = None
    observed_at: Moment | None = Field(default=None, description="when the sender saw this; the default is now")
    source: Name | None = Field(default=None, description="the cluster or region that runs it")


Credits = Annotated[int, Field(strict=True, ge=0, le=SPENDING_LIMIT_MAX)]
"""A limit in whole credits."""

RawReport = Annotated[Any, WithJsonSchema(ReportArguments.model_json_schema())]
"""A report as it came: each is read on its own, so that a bad one does not refuse its batch."""


def parse_reports(
    raw: Sequence[object], *, at: datetime, source: str | None = None
) -> tuple[list[SessionReport], list[Rejection]]:
    """Read each report of a batch on its own: the good ones, and for each bad one its index, field and reason.

    With `source` the batch lists what runs there: a report that names another one is bad.
    """
    reports, rejections = [], []
    for index, row in enumerate(raw):
        try:
            report = _report(index, ReportArguments.model_validate(row), at=at, source=source)
        except ValidationError as error:
            rejections.append(_rejection(index, row, error))
            continue
        if report.observed_at > at + AHEAD_MAX:  # it would bar every correction until then
            reason = f"{report.observed_at.isoformat()} is not allowed: at most a day after {at.isoformat()}"
            rejections.append(Rejection(index=index, field="observed_at", reason=reason))
        elif source is not None and report.source != source:
            reason = f"{report.source!a} is not allowed: {source!a}, whose snapshot this is"
            rejections.append(Rejection(index=index, field="source", reason=reason))
        else:
            reports.append(report)
    return reports, rejections


def find_instance_id(row: object) -> UUID | None:
    """Tell whose report a row is that can't be read otherwise."""
    try:
        return parse_uuid(row["instance_id"]) if isinstance(row, dict) else None
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _report(index: int, row: ReportArguments, *, at: datetime, source: str | None) -> SessionReport:
    return SessionReport(
        index=index,
        instance_id=UUID(row.instance_id),
        workspace_id=row.workspace_id,
        user_id=UUID(row.user_id),
        attribution_id=AttributionId(row.attribution_id),
        workspace_class=row.workspace_class,
        created_at=row.created_at,
        started_at=row.started_at,
        stopping_at=row.stopping_at,
        stopped_at=row.stopped_at,
        observed_at=row.observed_at or at,
        source=row.source or source,
    )


def _rejection(index: int, row: object, error: ValidationError) -> Rejection:
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"])) or "report"
    if not isinstance(row, dict):
        return Rejection(index=index, field="report", reason=f"{row!a:.200} is not allowed: an object")
    if first["type"] == "missing":
        stopped = next((name for name in ("stopped_at", "stopping_at") if row.get(name)), None)
        tail = f", although {stopped} is given" if field == "started_at" and stopped else ""
        return Rejection(index=index, field=field, reason=f"is missing{tail}")
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] == "value_error" else f"{first['input']!a:.200} is not allowed: "
    return Rejection(index=index, field=ascii(field)[1:-1], reason=shown + message)
