"""Names: the external id and the display name of a session, a user or a team, kept once. Source: docs/adr/0035.

A subject is `session:<uuid>`, `user:<uuid>` or `team:<uuid>`. One without names has no row.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import ExternalName
from usage_tasks.storage.rows import execute, fetch, fetch_one

# A row that is there is not even locked: reports repeat. Of a deleted user no name is kept: whoever deletes them waits
# for those who keep their name, and a trigger removes what is there then.
_KEEP: Final = """
    WITH fresh AS (
        SELECT g.subject, g.external_id,
            CASE WHEN g.subject LIKE 'user:%' THEN CAST(substr(g.subject, 6) AS uuid) END AS user_id
        FROM unnest(CAST(:subjects AS text[]), CAST(:external_ids AS text[])) AS g(subject, external_id)
        LEFT JOIN directory_name AS held ON held.subject = g.subject
        WHERE held.external_id IS NULL
    ), known AS (
        SELECT user_id, deleted FROM directory_user
        WHERE user_id IN (SELECT user_id FROM fresh) ORDER BY user_id FOR SHARE
    )
    INSERT INTO directory_name AS held (subject, external_id)
    SELECT subject, external_id FROM fresh LEFT JOIN known USING (user_id)
    WHERE known.deleted IS NOT TRUE ORDER BY subject
    ON CONFLICT (subject) DO UPDATE SET external_id = EXCLUDED.external_id WHERE held.external_id IS NULL
"""

_SET_DISPLAY_NAME: Final = """
    INSERT INTO directory_name AS held (subject, display_name) VALUES (:subject, :display_name)
    ON CONFLICT (subject) DO UPDATE SET display_name = EXCLUDED.display_name
"""

_HOLD_USER: Final = "SELECT deleted FROM directory_user WHERE user_id = :user_id FOR SHARE"


class Names(NamedTuple):
    """The names of a subject; each may be missing."""

    external_id: str | None = None
    display_name: str | None = None


NAMELESS: Final = Names()


def read_namespace(connection: Connection) -> UUID:
    """Return the namespace in which external ids are UUIDs; it never changes."""
    namespace: UUID = fetch_one(connection, "SELECT namespace FROM directory_namespace").namespace
    return namespace


def keep_external_ids(connection: Connection, names: Iterable[ExternalName]) -> None:
    """Store external ids that are not stored yet; nothing is asked for none."""
    if given := sorted(set(names)):
        subjects, external_ids = [each.subject for each in given], [each.external_id for each in given]
        execute(connection, _KEEP, subjects=subjects, external_ids=external_ids)


def set_display_name(connection: Connection, subject: str, display_name: str | None) -> None:
    """Give a subject a display name, or take it away; without a name left its row goes."""
    if display_name is not None:
        execute(connection, _SET_DISPLAY_NAME, subject=subject, display_name=display_name)
        return
    execute(connection, "DELETE FROM directory_name WHERE subject = :subject AND external_id IS NULL", subject=subject)
    execute(connection, "UPDATE directory_name SET display_name = NULL WHERE subject = :subject", subject=subject)


def hold_user(connection: Connection, user_id: UUID) -> bool:
    """Return True if a user is deleted; whoever would delete them now waits for this transaction."""
    return any(row.deleted for row in fetch(connection, _HOLD_USER, user_id=user_id))


def find_names(connection: Connection, subjects: Collection[str]) -> Mapping[str, Names]:
    """Return the names of those subjects that have one; nothing is asked for none."""
    if not subjects:
        return {}
    statement = "SELECT subject, external_id, display_name FROM directory_name WHERE subject = ANY(CAST(:s AS text[]))"
    return {
        row.subject: Names(row.external_id, row.display_name) for row in fetch(connection, statement, s=list(subjects))
    }


def is_any_named(connection: Connection, kinds: Iterable[str]) -> bool:
    """Return True if a subject of one of the kinds, such as "team", has a name."""
    statement = """
        SELECT EXISTS (
            SELECT 1 FROM unnest(CAST(:kinds AS text[])) AS kind
            JOIN directory_name ON subject >= kind || ':' AND subject < kind || ';'
        ) AS found
    """
    return bool(fetch_one(connection, statement, kinds=list(kinds)).found)
