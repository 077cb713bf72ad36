"""The bulk path of reports: COPY new rows into their table, and rows to merge through a temporary one."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from psycopg import errors, sql
from sqlalchemy import Connection

from usage_tasks.domain.errors import RetryableError
from usage_tasks.storage.rows import execute, fetch, fetch_one
from usage_tasks.storage.sessions.merging import Merged, merging
from usage_tasks.storage.sessions.source_snapshots import lock_sources

COLUMNS: Final = (
    "instance_id",
    "workspace_id",
    "user_id",
    "attribution_id",
    "workspace_class",
    "started_at",
    "created_at",
    "stopping_at",
    "stopped_at",
    "observed_at",
    "source",
)
"""The values of a row of a file."""

PlainRow = tuple[str, ...]
"""The values of COLUMNS as text: instants of UTC, "" for none."""

ACCOUNT: Final = COLUMNS.index("attribution_id")
USER: Final = COLUMNS.index("user_id")
CLASS: Final = COLUMNS.index("workspace_class")
STOPPED: Final = COLUMNS.index("stopped_at")
OBSERVED: Final = COLUMNS.index("observed_at")
SOURCE: Final = COLUMNS.index("source")

_PROBES = 16

_CREATE = """
    CREATE TEMPORARY TABLE staged_report (
        line integer, instance_id uuid, workspace_id text, user_id uuid, attribution_id text, workspace_class text,
        started_at timestamptz, created_at timestamptz, stopping_at timestamptz, stopped_at timestamptz,
        observed_at timestamptz, source text
    ) ON COMMIT DROP
"""

# One look into the index a row, however long the history is: left to itself the planner reads the whole table.
_CONTRADICTING = """
    SELECT s.line FROM staged_report s
    JOIN LATERAL (
        SELECT w.attribution_id, w.workspace_class, w.user_id
        FROM workspace_instance w WHERE w.instance_id = s.instance_id LIMIT 1
    ) AS held ON (held.attribution_id, held.workspace_class, held.user_id)
        <> (s.attribution_id, s.workspace_class, s.user_id)
"""

_OF_STAGED = ", ".join(name for name in COLUMNS if name != "observed_at")
_MERGE = merging(
    f"""SELECT {_OF_STAGED}, COALESCE(observed_at, :at) AS observed_at, false AS present, NULL::jsonb AS timeline
        FROM staged_report"""
)


def merge_plain(connection: Connection, rows: Mapping[int, PlainRow], *, at: datetime) -> tuple[Merged, frozenset[int]]:
    """Merge rows by their lines; return the counts, and the lines that contradict their session.

    Such a line names another account, class or user than the session has, and changed nothing.

    A row without the time of its observation is of `at`; no row may be of a later one. Most rows of most files are of
    sessions that nobody knows, one a session: those are added as they stand.
    """
    taken = lock_sources(connection, {row[SOURCE] for row in rows.values()} - {""})
    once = len({row[0] for row in rows.values()}) == len(rows)
    if once and not _knows_some(connection, rows) and _add(connection, rows, taken, at=at):
        return Merged(inserted=len(rows), updated=0, unchanged=0), frozenset()
    return _merge(connection, rows, at=at)


def _knows_some(connection: Connection, rows: Mapping[int, PlainRow]) -> bool:
    """Look a few sessions up, so that a repeated import does not try to add each chunk again."""
    statement = "SELECT FROM workspace_instance WHERE instance_id = ANY(CAST(:probes AS uuid[])) LIMIT 1"
    probes = [row[0] for row in rows.values()][:: max(1, len(rows) // _PROBES)]
    return bool(fetch(connection, statement, probes=probes))


def _add(
    connection: Connection, rows: Mapping[int, PlainRow], taken: Mapping[str, datetime | None], *, at: datetime
) -> bool:
    """Copy rows into the table, one per session. Return False, and add nothing, if one of the sessions is known.

    The rows equal the result of merging. They are inserted in session order, so two imports of the same
    sessions cannot deadlock, whatever the order of their files.
    """
    missed = {"": "", **{source: "" if each is None else each.isoformat() for source, each in taken.items()}}
    observed_at = at.isoformat()
    lines = []
    for row in sorted(rows.values()):
        full = row if row[OBSERVED] else (*row[:OBSERVED], observed_at, *row[OBSERVED + 1 :])
        seen_at, source = full[OBSERVED], full[SOURCE]
        alive_at, named_at = "" if full[STOPPED] else seen_at, seen_at if source else ""
        lines.append(f"{','.join(full)},{alive_at},{named_at},{missed[source]}\n")
    try:
        with connection.begin_nested():
            _copy(connection, "workspace_instance", (*COLUMNS, "last_seen_at", "source_seen_at", "missed_at"), lines)
    except errors.UniqueViolation:
        return False
    return True


def _merge(connection: Connection, rows: Mapping[int, PlainRow], *, at: datetime) -> tuple[Merged, frozenset[int]]:
    execute(connection, _CREATE)
    lines = (",".join((str(line), *row)) + "\n" for line, row in rows.items())
    _copy(connection, "staged_report", ("line", *COLUMNS), lines)
    done = fetch_one(connection, _MERGE, at=at, seen_at=None, arrived_at=at)
    contradicting = frozenset(int(row.line) for row in fetch(connection, _CONTRADICTING))
    execute(connection, "DROP TABLE staged_report")  # the transaction may merge others
    unchanged = len(rows) - done.inserted - done.updated - len(contradicting)
    return Merged(inserted=done.inserted, updated=done.updated, unchanged=unchanged), contradicting


def _copy(connection: Connection, table: str, columns: Sequence[str], lines: Iterable[str]) -> None:
    driver = connection.connection.driver_connection
    if driver is None:  # a connection that was invalidated: the pool's own error is clearer
        raise RetryableError("database: the connection is gone")
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(sql.Identifier(table), names)
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write("".join(lines))
