"""The bulk path of reports: COPY into a temporary table, then the same merge as for a task's batch, set-based."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg import sql
from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.storage.rows import execute, fetch, fetch_one
from usage_tasks.storage.sessions import Merged, adding, merging
from usage_tasks.storage.snapshots import lock_sources

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
"""The columns of a staged row, after its line number."""

_CREATE = """
    CREATE TEMPORARY TABLE staged_report (
        line integer, instance_id uuid, workspace_id text, user_id uuid, attribution_id text, workspace_class text,
        started_at timestamptz, created_at timestamptz, stopping_at timestamptz, stopped_at timestamptz,
        observed_at timestamptz, source text
    ) ON COMMIT DROP
"""

# What record_reports would look at one by one: a class without a price, a session that the chunk gives to two accounts,
# a session of which a row could not be read plainly, an observation that has yet to come.
_SET_ASIDE = """
    DELETE FROM staged_report WHERE line IN (
        SELECT s.line FROM staged_report s LEFT JOIN price_version p USING (workspace_class)
        WHERE p.workspace_class IS NULL
        UNION SELECT line FROM staged_report WHERE instance_id = ANY(CAST(:odd AS uuid[])) OR observed_at > :latest
        UNION SELECT s.line FROM staged_report s JOIN (
            SELECT instance_id FROM staged_report GROUP BY instance_id HAVING min(attribution_id) <> max(attribution_id)
        ) AS torn USING (instance_id)
    )
    RETURNING line
"""

# One look into the index a row, however long the history is: left to itself the planner reads the whole table.
_FOREIGN = """
    DELETE FROM staged_report WHERE line IN (
        SELECT s.line FROM staged_report s
        JOIN LATERAL (
            SELECT w.attribution_id FROM workspace_instance w WHERE w.instance_id = s.instance_id LIMIT 1
        ) AS held ON held.attribution_id <> s.attribution_id
    )
    RETURNING line
"""

_OF_STAGED = ", ".join(name for name in COLUMNS if name != "observed_at")
_REPORTS = f"SELECT {_OF_STAGED}, COALESCE(observed_at, :at) AS observed_at FROM staged_report"
_MERGE, _ADD = merging(_REPORTS), adding(_REPORTS)


def stage(connection: Connection, columns: Sequence[str], lines: Iterable[str]) -> None:
    """Copy lines of CSV, each a line number and the values of `columns`, into the transaction's temporary table."""
    execute(connection, _CREATE)
    driver = connection.connection.driver_connection
    if driver is None:  # a connection that was invalidated: the pool's own error is clearer
        raise ConnectionError("database: the connection is gone")
    names = sql.SQL(", ").join(map(sql.Identifier, ("line", *columns)))
    statement = sql.SQL("COPY staged_report ({}) FROM STDIN (FORMAT csv)").format(names)
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write("".join(lines))


def unstage(connection: Connection) -> None:
    """Forget the staged rows before the transaction ends, so that it may stage others."""
    execute(connection, "DROP TABLE staged_report")


def set_aside(connection: Connection, odd: Collection[UUID], *, latest: datetime) -> Sequence[int]:
    """Take out the rows that are no plain case, `odd` naming sessions that are none; answer their lines."""
    return [int(row.line) for row in fetch(connection, _SET_ASIDE, odd=list(odd), latest=latest)]


def list_new_accounts(connection: Connection) -> Sequence[AttributionId]:
    """Name the accounts of the staged rows that are not open yet."""
    statement = """
        SELECT attribution_id FROM (SELECT DISTINCT attribution_id FROM staged_report) AS s
        WHERE NOT EXISTS (SELECT FROM cost_center c WHERE c.attribution_id = s.attribution_id)
        ORDER BY attribution_id
    """
    return [AttributionId(row.attribution_id) for row in fetch(connection, statement)]


def merge_staged(connection: Connection, *, at: datetime) -> tuple[Merged, Sequence[int]]:
    """Merge the staged rows; answer what that did, and the lines whose session is another account's, now out.

    A row without the time of its observation is of `at`. Most rows of most files are of sessions that nobody knows, one
    a session: such a chunk is added as it stands.
    """
    sources = "SELECT DISTINCT source FROM staged_report WHERE source IS NOT NULL"
    lock_sources(connection, [str(row.source) for row in fetch(connection, sources)])
    counted = "SELECT count(*) AS reports, count(DISTINCT instance_id) AS sessions FROM staged_report"
    staged = fetch_one(connection, counted)
    added = execute(connection, _ADD, at=at) if staged.reports == staged.sessions else 0
    if added == staged.reports:
        return Merged(inserted=added, updated=0, unchanged=0), []
    row = fetch_one(connection, _MERGE, at=at, seen_at=None)
    inserted = added + row.inserted
    foreign = [int(each.line) for each in fetch(connection, _FOREIGN)]
    unchanged = staged.reports - inserted - row.updated - len(foreign)
    return Merged(inserted=inserted, updated=row.updated, unchanged=unchanged), foreign
