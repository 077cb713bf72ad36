"""The ledger job: post what stopped, announce who reached their limit."""

from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.storage import outbox, sessions
from usage_tasks.storage.sessions import Posted

BATCH: Final = 50_000


def post_batch(connection: Connection, *, at: datetime) -> Posted:
    """Post up to BATCH sessions that had stopped by `at`; fewer than BATCH means that nothing free is left."""
    return sessions.post_stopped(connection, at=at, limit=BATCH)


def announce_limits(connection: Connection, *, at: datetime) -> int:
    """Put an announcement into the outbox for each account that has reached its limit, once a cycle."""
    return outbox.announce_reached_limits(connection, at=at)
