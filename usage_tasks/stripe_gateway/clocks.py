"""Stripe's own clock, as the Date header of its answers shows it, and refusals that are about a clock."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import stripe

from usage_tasks.domain.errors import PermanentError, TooEarlyError, TooOldError
from usage_tasks.domain.meter_timestamps import is_too_old

_CODES: Final = frozenset({"timestamp_in_future", "timestamp_too_far_in_past"})


def read_date(headers: Mapping[str, str] | None) -> datetime | None:
    """Return when an answer was written, by its server's clock, or None without a Date header."""
    stated = next((value for name, value in (headers or {}).items() if name.lower() == "date"), None)
    try:
        written = None if stated is None else parsedate_to_datetime(stated)
    except ValueError:
        return None
    if written is None:
        return None
    return written.replace(tzinfo=UTC) if written.tzinfo is None else written.astimezone(UTC)


def listed_at(page: object) -> datetime | None:
    """Return when Stripe wrote a page of a list, by its clock, or None without a Date header."""
    return read_date(getattr(getattr(page, "last_response", None), "headers", None))


def check_timestamp(refusal: PermanentError, as_of: datetime) -> None:
    """Raise TooEarlyError or TooOldError if Stripe refused an event for its timestamp; else do nothing.

    The Date header of the refusal decides which of the two, not Stripe's words.
    """
    cause = refusal.__context__
    if not isinstance(cause, stripe.InvalidRequestError) or not _is_about_timestamp(cause):
        return
    stripe_at = read_date(cause.headers)
    if is_too_old(as_of, stripe_at=stripe_at):
        raise TooOldError(str(refusal), remote_at=stripe_at) from None
    raise TooEarlyError(str(refusal), remote_at=stripe_at) from None


def _is_about_timestamp(error: stripe.InvalidRequestError) -> bool:
    code = error.error.code if error.error is not None else None
    return error.param == "timestamp" or code in _CODES or "timestamp" in (error.user_message or "").lower()
