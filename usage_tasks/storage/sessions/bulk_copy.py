"""The bulk path of reports: COPY new rows into their table, and rows to merge through a temporary one."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from psycopg import errors, sql
from sqlalchemy import Connection

from usage_tasks.domain.errors import RetryableError
from usage_tasks.domain.timelines import Segment
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
STOPPING: Final = COLUMNS.index("stopping_at")
STOPPED: Final = COLUMNS.index("stopped_at")
OBSERVED: Final = COLUMNS.index("observed_at")
SOURCE: Final = COLUMNS.index("source")


class Along(NamedTuple):
    """Its changes make this of a session: the timeline as JSON, the proof of life, an observation before the row's.

    If there is one, the start was reported later, at `start_reported_at`.
    """

    timeline: str
    last_seen_at: datetime
    first_observed_at: datetime | None
    start_reported_at: datetime | None
    changes: frozenset[Segment]


class Copied(NamedTuple):
    """The counts, the lines that contradict their session and changed nothing, and whether changes were taken up."""

    merged: Merged
    contradicting: frozenset[int]
    with_changes: bool


_PROBES = 16
_ADDED: Final = (
    *COLUMNS,
    "last_seen_at",
    "source_seen_at",
    "missed_at",
    "timeline",
    "first_observed_at",
    "start_reported_at",
)
_CHANGE: Final = ("instance_id", "user_id", "begins_at", "observed_at", "workspace_class", "state")

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


def merge_plain(
    connection: Connection, rows: Mapping[int, PlainRow], along: Mapping[str, Along], *, at: datetime
) -> Copied:
    """Merge rows by their lines. A row that names another account, class or user than its session has contradicts it.

    `along` is what changes make of sessions; it is left out, and the caller's to merge, unless all sessions are new.
    A row without the time of its observation is of `at`; no row may be of a later one. Most rows of most files are of
    sessions that nobody knows, one a session: those are added as they stand.
    """
    taken = lock_sources(connection, {row[SOURCE] for row in rows.values()} - {""})
    once = len({row[0] for row in rows.values()}) == len(rows)
    if once and not _knows_some(connection, rows) and _add(connection, rows, taken, along, at=at):
        return Copied(Merged(inserted=len(rows), updated=0, unchanged=0), frozenset(), with_changes=True)
    return _merge(connection, rows, at=at)


def _knows_some(connection: Connection, rows: Mapping[int, PlainRow]) -> bool:
    """Look a few sessions up, so that a repeated import does not try to add each chunk again."""
    statement = "SELECT FROM workspace_instance WHERE instance_id = ANY(CAST(:probes AS uuid[])) LIMIT 1"
    probes = [row[0] for row in rows.values()][:: max(1, len(rows) // _PROBES)]
    return bool(fetch(connection, statement, probes=probes))


def _add(
    connection: Connection,
    rows: Mapping[int, PlainRow],
    taken: Mapping[str, datetime | None],
    along: Mapping[str, Along],
    *,
    at: datetime,
) -> bool:
    """Copy rows into the table, one per session. Return False, and add nothing, if one of the sessions is known.

    The rows equal the result of merging. They are inserted in session order, so two imports of the same
    sessions cannot deadlock, whatever the order of their files.
    """
    missed = {"": "", **{source: _text(each) for source, each in taken.items()}}
    observed_at = at.isoformat()
    lines, changes_of_all = [], []
    for row in sorted(rows.values()):
        full = row if row[OBSERVED] else (*row[:OBSERVED], observed_at, *row[OBSERVED + 1 :])
        seen_at, source = full[OBSERVED], full[SOURCE]
        alive_at, named_at = "" if full[STOPPED] else seen_at, seen_at if source else ""
        timeline = first_at = reported_at = ""
        if changes := along.get(row[0]):
            alive_at, first_at = changes.last_seen_at.isoformat(), _text(changes.first_observed_at)
            reported_at = _text(changes.start_reported_at)
            changes_of_all += [_change(row, each) for each in changes.changes]
            timeline = '"' + changes.timeline.replace('"', '""') + '"'
        lines.append(f"{','.join(full)},{alive_at},{named_at},{missed[source]},{timeline},{first_at},{reported_at}\n")
    try:
        with connection.begin_nested():
            _copy(connection, "workspace_instance", _ADDED, lines)
            if changes_of_all:
                _copy(connection, "session_change", _CHANGE, changes_of_all)
    except errors.UniqueViolation:
        return False
    return True


def _change(row: PlainRow, segment: Segment) -> str:
    instants = segment.begins_at.isoformat(), segment.observed_at.isoformat()
    quoted = segment.workspace_class.replace('"', '""')
    return ",".join((row[0], row[USER], *instants, f'"{quoted}"', segment.state)) + "\n"


def _text(instant: datetime | None) -> str:
    return "" if instant is None else instant.isoformat()


def _merge(connection: Connection, rows: Mapping[int, PlainRow], *, at: datetime) -> Copied:
    execute(connection, _CREATE)
    lines = (",".join((str(line), *row)) + "\n" for line, row in rows.items())
    _copy(connection, "staged_report", ("line", *COLUMNS), lines)
    done = fetch_one(connection, _MERGE, at=at, seen_at=None, arrived_at=at)
    contradicting = frozenset(int(row.line) for row in fetch(connection, _CONTRADICTING))
    execute(connection, "DROP TABLE staged_report")  # the transaction may merge others
    unchanged = len(rows) - done.inserted - done.updated - len(contradicting)
    merged = Merged(inserted=done.inserted, updated=done.updated, unchanged=unchanged)
    return Copied(merged, contradicting, with_changes=False)


def _copy(connection: Connection, table: str, columns: Sequence[str], lines: Iterable[str]) -> None:
    driver = connection.connection.driver_connection
    if driver is None:  # a connection that was invalidated: the pool's own error is clearer
        raise RetryableError("database: the connection is gone")
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(sql.Identifier(table), names)
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write("".join(lines))
