"""Changes that a file adds to the rows of their sessions end in the rows in which reports of both would."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.examples import examples
from tests.factories import HOUR, LIMITS, START, SYSTEM, make_id, session_row
from usage_tasks.services.sessions.changes import OddRow
from usage_tasks.services.sessions.import_reports import Chunk, import_chunk
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.sessions.bulk_copy import COLUMNS

AT = START + 9 * HOUR
INSTANCES = [str(make_id(name)) for name in ("one", "another")]
# The proof of life of a session that has stopped depends on the order of reports, and decides nothing.
HELD = """
    SELECT to_jsonb(w) - 'recorded_at' - CASE WHEN stopped_at IS NULL THEN '' ELSE 'last_seen_at' END,
           to_jsonb(o) - 'opened_at'
    FROM workspace_instance w JOIN open_session o USING (instance_id) ORDER BY instance_id
"""
CHANGES = "SELECT to_jsonb(c) FROM session_change c ORDER BY c"

# One of them is later than AT.
INSTANTS = st.sampled_from([START + number * HOUR for number in range(11)])
SOMETIMES = st.none() | INSTANTS


@st.composite
def rows_of_files(draw: st.DrawFn) -> list[dict[str, str]]:
    """The row of each session, then changes of them in any order; some cannot be right."""
    rows = [
        session_row(
            instance_id=instance_id,
            workspace_class="small",
            stopped_at=draw(SOMETIMES),
            stopping_at=draw(SOMETIMES),
            created_at=draw(SOMETIMES),
            observed_at=draw(SOMETIMES),
            source=draw(st.sampled_from([None, "north"])),
        )
        for instance_id in INSTANCES
    ]
    changes = st.fixed_dictionaries(
        {
            "instance_id": st.sampled_from(INSTANCES),
            "from": INSTANTS.map(datetime.isoformat),
            "workspace_class": st.sampled_from(["small", "large", "large", "xlarge", "xlarge", "gold"]),
        },
        optional={
            "observed_at": INSTANTS.map(datetime.isoformat),
            "stopped_at": st.just((START + HOUR).isoformat()),
            "state": st.sampled_from(["running", "suspended", "asleep"]),
        },
    )
    return [
        *({name: str(value) for name, value in row.items() if value is not None} for row in rows),
        *draw(st.lists(changes, max_size=6)),
    ]


def chunk_of(rows: dict[int, dict[str, str]]) -> Chunk:
    return Chunk(
        plain={line: tuple(row.get(name, "") for name in COLUMNS) for line, row in rows.items() if "from" not in row},
        odd={line: OddRow(row, UUID(row["instance_id"])) for line, row in rows.items() if "from" in row},
    )


def import_chunks(connection: Connection, *chunks: Chunk) -> tuple[list[int], list[tuple[Any, ...]]]:
    """Import chunks; return the lines that are refused, and the rows of the tables."""
    with rehearsal(connection):
        done = [
            import_chunk(connection, each, opened=frozenset(), limits=LIMITS, at=AT, actor=SYSTEM).recorded
            for each in chunks
        ]
        held = [tuple(row) for statement in (HELD, CHANGES) for row in connection.execute(text(statement))]
    return sorted(refused.index for each in done for refused in each.rejections), held


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows_of_files())
def test_changes_in_one_chunk_with_their_sessions_are_merged_as_reports_are(
    connection: Connection, rows: list[dict[str, str]]
) -> None:
    lines = dict(enumerate(rows, start=2))
    together = import_chunks(connection, chunk_of(lines))
    assert together == import_chunks(connection, *(chunk_of({line: row}) for line, row in lines.items()))


def test_changes_that_are_folded_in_are_counted(connection: Connection) -> None:
    session = session_row(instance_id=INSTANCES[0], workspace_class="small", stopped_at=AT)
    change = {"instance_id": INSTANCES[0], "workspace_class": "large"}
    changes = [change | {"from": (START + timedelta(hours=number)).isoformat()} for number in (1, 2, 3)]
    rows = [{name: str(value) for name, value in session.items() if value is not None}, *changes]
    chunk = chunk_of(dict(enumerate(rows, start=2)))
    merged = import_chunk(connection, chunk, opened=frozenset(), limits=LIMITS, at=AT, actor=SYSTEM).recorded.merged
    assert (merged.inserted, merged.updated, merged.unchanged) == (1, 1, 2)
