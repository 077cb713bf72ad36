"""Our headers of a message: the time of sending, and the request that it belongs to."""

import time
import uuid
from typing import Any, Final

import structlog

PUBLISHED_AT: Final = "published_at"
REQUEST_ID: Final = "request_id"
TICK: Final = "usage_tick"
"""True in a message that is a tick of our schedule: at most one of each task waits (coordination/ticks.py)."""


def stamp(headers: dict[str, Any]) -> None:
    """Stamp a message that leaves this process; a task's own messages carry its request's id on."""
    bound = structlog.contextvars.get_contextvars().get(REQUEST_ID)
    headers.setdefault(REQUEST_ID, str(bound or uuid.uuid4()))
    headers[PUBLISHED_AT] = time.time()
