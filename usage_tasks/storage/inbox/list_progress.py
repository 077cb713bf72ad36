"""How far a list of Stripe's was walked: newest first, page by page, over as many runs as it takes."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.storage.rows import execute, fetch_one


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Everything created before `since` is known. A walk under way lists what came by `until`, after `cursor`.

    `failed_since` is when the oldest thing was created that failed in it: the next walk begins there at the latest.
    """

    since: datetime | None
    until: datetime | None
    cursor: str | None
    failed_since: datetime | None


def get_walk(connection: Connection, name: str) -> Walk:
    """Answer how far a walk has come; one that never began knows nothing."""
    execute(connection, "INSERT INTO stripe_walk (name) VALUES (:name) ON CONFLICT DO NOTHING", name=name)
    statement = "SELECT since, until, cursor, failed_since FROM stripe_walk WHERE name = :name"
    return Walk(**fetch_one(connection, statement, name=name)._mapping)


def put_walk(connection: Connection, name: str, walk: Walk, *, expected: Walk) -> bool:
    """Store how far a walk has come, unless another run has moved it meanwhile; tell whether it was stored."""
    statement = """
        UPDATE stripe_walk SET since = :since, until = :until, cursor = :cursor, failed_since = :failed_since,
                               changed_at = clock_timestamp()
        WHERE name = :name AND (since, until, cursor, failed_since) IS NOT DISTINCT FROM (
            CAST(:held_since AS timestamptz), CAST(:held_until AS timestamptz), CAST(:held_cursor AS text),
            CAST(:held_failed_since AS timestamptz)
        )
    """
    stored = execute(
        connection,
        statement,
        name=name,
        since=walk.since,
        until=walk.until,
        cursor=walk.cursor,
        failed_since=walk.failed_since,
        held_since=expected.since,
        held_until=expected.until,
        held_cursor=expected.cursor,
        held_failed_since=expected.failed_since,
    )
    return stored == 1
