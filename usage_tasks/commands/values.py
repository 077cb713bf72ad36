"""Options that several commands have, and how their values are read."""

from datetime import UTC, datetime
from typing import Annotated

import typer

At = Annotated[datetime | None, typer.Option(help="ISO 8601, UTC; default: now")]


def utc(moment: datetime) -> datetime:
    """Return an aware instant; an instant without a zone is in UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def utc_or_none(moment: datetime | None) -> datetime | None:
    """Return the same, or None if nothing was given."""
    return None if moment is None else utc(moment)
