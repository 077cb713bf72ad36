"""Options that several commands have, and how their values are read."""

from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from pydantic import TypeAdapter, ValidationError

from usage_tasks.wire.problems import describe
from usage_tasks.wire.values import Attribution, SessionId

At = Annotated[datetime | None, typer.Option(help="ISO 8601, UTC; default: now")]

_ACCOUNT: Final = TypeAdapter(Attribution)
_SESSION: Final = TypeAdapter(SessionId)


def utc(moment: datetime) -> datetime:
    """Return an aware instant; an instant without a zone is in UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def utc_or_none(moment: datetime | None) -> datetime | None:
    """Return the same, or None if nothing was given."""
    return None if moment is None else utc(moment)


def read_account(text: str) -> str:
    """Return an account as a task would read it. Raises BadParameter."""
    return _read(_ACCOUNT, text, "ATTRIBUTION")


def read_session(text: str) -> str:
    """Return the id of a session as a task would read it. Raises BadParameter."""
    return _read(_SESSION, text, "INSTANCE_ID")


def _read(adapter: "TypeAdapter[str]", text: str, parameter: str) -> str:
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        raise typer.BadParameter(describe(error.errors()[0]), param_hint=parameter) from None
