"""The instant that a caller asks for, and the one at which a call takes effect. Source: docs/adr/0024.

Nothing takes effect later than now, which is the database's time. A caller's clock may be ahead by a few minutes: such
an instant means now. Only services of the platform write as of the past; a user's act takes effect now.
"""

from datetime import datetime, timedelta
from typing import Final

from usage_tasks.domain.errors import InvalidInputError

AHEAD_MAX: Final = timedelta(minutes=5)
"""How far a caller's clock may be ahead of the database's."""

USER_READS_BACK_MAX: Final = timedelta(days=366)
"""How far back a user may look: a year, as far as one report reaches."""

USER_ACTS_BACK_MAX: Final = timedelta(days=1)
"""How old a user's act may be when it is worked on: its message may have waited for a worker."""


def instant_to_read(at: datetime, *, now: datetime, by_user: bool) -> datetime:
    """Return the instant, at most `now`, as of which a call is answered.

    Raises InvalidInputError for an instant more than AHEAD_MAX ahead, and for a user's that is too long ago.
    """
    return _bounded(at, now=now, earliest=now - USER_READS_BACK_MAX if by_user else None)


def instant_to_act(at: datetime, *, now: datetime, by_user: bool) -> datetime:
    """Return the instant, at most `now`, at which an act takes effect: for a user's act, `now`.

    Raises InvalidInputError for an instant more than AHEAD_MAX ahead, and for a user's that is too long ago.
    """
    bounded = _bounded(at, now=now, earliest=now - USER_ACTS_BACK_MAX if by_user else None)
    return now if by_user else bounded


def _bounded(at: datetime, *, now: datetime, earliest: datetime | None) -> datetime:
    if at > now + AHEAD_MAX:
        raise InvalidInputError("at", at.isoformat(), f"at or before now, {now.isoformat()}")
    if earliest is not None and at < earliest:
        allowed = f"at or after {earliest.isoformat()} for a user (only a service of the platform may go further back)"
        raise InvalidInputError("at", at.isoformat(), allowed)
    return min(at, now)
