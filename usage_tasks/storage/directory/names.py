"""Names: the external id and the display name of a session, a user or a team, kept once. Source: docs/adr/0035.

A subject is `session:<uuid>`, `user:<uuid>` or `team:<uuid>`. One without names has no row.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.names import ExternalName
from usage_tasks.storage.rows import execute, fetch, fetch_one

# Of a deleted user no name is kept. A row that is there is not even locked: reports repeat.
_KEEP: Final = """
    WITH given AS (
        SELECT subject, external_id
        FROM unnest(CAST(:subjects AS text[]), CAST(:external_ids AS text[])) AS g(subject, external_id)
        WHERE NOT EXISTS (
            SELECT 1 FROM directory_user u
            WHERE u.deleted AND u.user_id = CASE WHEN subject LIKE 'user:%' THEN CAST(substr(subject, 6) AS uuid) END
        )
    ), filled AS (
        UPDATE directory_name AS held SET external_id = given.external_id
        FROM given WHERE held.subject = given.subject AND held.external_id IS NULL
    )
    INSERT INTO directory_name (subject, external_id)
    SELECT subject, external_id FROM given ORDER BY subject
    ON CONFLICT (subject) DO NOTHING
"""

_SET_DISPLAY_NAME: Final = """
    INSERT INTO directory_name AS held (subject, display_name) VALUES (:subject, :display_name)
    ON CONFLICT (subject) DO UPDATE SET display_name = EXCLUDED.display_name
"""

_FORGET_DELETED: Final = """
    DELETE FROM directory_name AS n USING directory_user AS u
    WHERE u.user_id = ANY(CAST(:ids AS uuid[])) AND u.deleted AND n.subject = 'user:' || u.user_id
"""


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


def forget_deleted(connection: Connection, user_ids: Iterable[UUID]) -> None:
    """Remove the names of those of the users who are deleted."""
    execute(connection, _FORGET_DELETED, ids=[str(each) for each in user_ids])


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
