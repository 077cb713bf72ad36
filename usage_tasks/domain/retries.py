"""How long to wait before something is tried again."""

from datetime import timedelta
from typing import Final

_FIRST: Final = timedelta(seconds=5)
_LONGEST: Final = timedelta(minutes=10)
_DOUBLINGS_MAX: Final = 10


def backoff(attempts: int, *, first: timedelta = _FIRST) -> timedelta:
    """Return how long to wait after so many attempts, 1 or more: doubling, at most 10 minutes."""
    return min(_LONGEST, first * (1 << min(attempts - 1, _DOUBLINGS_MAX)))
