"""Idempotency keys: the first key of a row, and the keys that follow when Stripe's answer is of no use.

Stripe keeps an answer under a key for 24 hours, errors included, and refuses the key for other arguments.
Source: https://docs.stripe.com/api/idempotent_requests.
"""

import re
from datetime import datetime, timedelta
from typing import Final

CALL_OVER: Final = timedelta(seconds=30)
"""After so long a call of another worker is over: we give it up after 10 s, Stripe a little later."""

_AGAIN: Final = re.compile(r"(?s)(.*):again:([0-9]+)")


def fresh_key(spent: str) -> str:
    """Return the key that follows a spent one: `x`, `x:again:2`, `x:again:3`."""
    again = _AGAIN.fullmatch(spent)
    return f"{spent}:again:2" if again is None else f"{again[1]}:again:{int(again[2]) + 1}"


def timed_key(spent: str, at: datetime) -> str:
    """Return a key that follows a spent one and is stored nowhere: for a call that is safe to make twice."""
    return f"{first_key(spent)}:again:{int(at.timestamp() * 1000)}"


def first_key(key: str) -> str:
    """Return the key that a fresh one came from; a first one is its own."""
    again = _AGAIN.fullmatch(key)
    return key if again is None else again[1]
