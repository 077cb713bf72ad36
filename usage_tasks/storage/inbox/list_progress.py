"""How far a list of Stripe's was walked: newest first, page by page, over as many runs as it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.storage.rows import execute, fetch, fetch_one


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
    """Return the progress of a walk. A walk that never began is empty."""
    execute(connection, "INSERT INTO stripe_walk (name) VALUES (:name) ON CONFLICT DO NOTHING", name=name)
    statement = "SELECT since, until, cursor, failed_since FROM stripe_walk WHERE name = :name"
    return Walk(**fetch_one(connection, statement, name=name)._mapping)


def put_walk(connection: Connection, name: str, walk: Walk, *, expected: Walk) -> bool:
    """Store how far a walk has come, unless another run has moved it meanwhile; return True if it was stored."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span of Stripe's time, [since, until)."""

    since: datetime
    until: datetime


BEGINNING = ""
"""The cursor of a walk that is to begin: it has an end, and stands at no object yet."""


def put_span(connection: Connection, names: Sequence[str], span: Span) -> bool:
    """Let walks begin over a span, each unless it has had that span; return True if any is new.

    A walk that is still under way begins again, and goes back as far as either span.
    """
    statement = """
        INSERT INTO stripe_walk AS held (name, since, until, cursor)
        SELECT name, :since, :until, :beginning FROM unnest(CAST(:names AS text[])) AS t(name)
        ON CONFLICT (name) DO UPDATE
        SET since = CASE WHEN held.until IS NULL THEN EXCLUDED.since ELSE LEAST(held.since, EXCLUDED.since) END,
            until = EXCLUDED.until, cursor = EXCLUDED.cursor, changed_at = clock_timestamp()
        WHERE held.since IS NULL OR held.since <> EXCLUDED.since
    """
    named = list(names)
    return execute(connection, statement, names=named, since=span.since, until=span.until, beginning=BEGINNING) > 0


def find_span(connection: Connection, name: str) -> Span | None:
    """Find the span of a walk that is under way."""
    rows = fetch(connection, "SELECT since, until FROM stripe_walk WHERE name = :name AND until IS NOT NULL", name=name)
    return Span(since=rows[0].since, until=rows[0].until) if rows else None


def list_under_way(connection: Connection, names: Sequence[str]) -> Sequence[str]:
    """Return the names of the walks that are not at their end."""
    statement = """
        SELECT name FROM stripe_walk WHERE name = ANY(CAST(:names AS text[])) AND until IS NOT NULL ORDER BY name
    """
    return [row.name for row in fetch(connection, statement, names=list(names))]
