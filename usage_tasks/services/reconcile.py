"""The ledger job: cap zombies, post what stopped, announce who reached their limit."""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.storage import outbox, sessions, zombies
from usage_tasks.storage.sessions import Posted
from usage_tasks.storage.zombies import Caps

BATCH: Final = 10_000


def cap_batch(
    connection: Connection, *, at: datetime, heartbeat_grace: timedelta | None, lifetime_max: timedelta | None
) -> Caps:
    """Cap up to BATCH running sessions without proof of life, or older than any may be; before what stopped is posted.

    A bound of None is switched off. Fewer than BATCH changes mean that nothing free is left.
    """
    return zombies.cap_zombies(connection, at=at, grace=heartbeat_grace, lifetime=lifetime_max, limit=BATCH)


def post_batch(connection: Connection, *, at: datetime) -> Posted:
    """Post up to BATCH sessions that had stopped by `at`; fewer than BATCH means that nothing free is left."""
    return sessions.post_stopped(connection, at=at, limit=BATCH)


def announce_limits(connection: Connection, *, at: datetime) -> int:
    """Put an announcement into the outbox for each account that has reached its limit, once a cycle."""
    return outbox.announce_reached_limits(connection, at=at)
