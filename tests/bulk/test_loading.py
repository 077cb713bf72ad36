"""The bulk path and the task give the same results."""

import csv
import gzip
import json
import os
import time
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typer
from sqlalchemy import Connection, text

from tests.factories import DAY, HOUR, START, SYSTEM, call, make_id, session_report, session_row, team, user
from usage_tasks import bulk
from usage_tasks.commands.sessions.import_file import import_reports
from usage_tasks.coordination.clock import TestClock
from usage_tasks.demo.quarter import load_quarter
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.storage.sessions.bulk_copy import COLUMNS
from usage_tasks.storage.sessions.merging import merge_reports
from usage_tasks.tasks.usage import sessions

FILE = Path(bulk.__file__).parents[1] / "demo/data/metacentrum-2013q1.csv.gz"
AT = START + DAY
HELD = f"""
    SELECT {", ".join(f"w.{name}" for name in COLUMNS)}, w.last_seen_at, w.source_seen_at, w.missed_at, w.final_at,
           w.ended_at, o.revision
    FROM workspace_instance w LEFT JOIN open_session o USING (attribution_id, instance_id) ORDER BY instance_id
"""  # noqa: S608 - constants
REST = (
    "SELECT attribution_id, version, spending_limit, cycle_started_at, actor FROM cost_center ORDER BY 1",
    "SELECT field, reason, times_seen FROM quarantined_report ORDER BY 1, 2, 3",
    "SELECT source, taken_at FROM source_snapshot ORDER BY 1",
)


def held(rt: Runtime, *, rest: bool = True) -> list[list[tuple[Any, ...]]]:
    with rt.transaction() as connection:
        return [[tuple(row) for row in connection.execute(text(each))] for each in (HELD, *(REST if rest else ()))]


def forget(rt: Runtime) -> None:
    with rt.transaction() as connection:
        connection.execute(
            text("TRUNCATE workspace_instance, open_session, cost_center, quarantined_report, source_snapshot")
        )


def write(path: Path, rows: Sequence[dict[str, Any]], header: Sequence[str] = COLUMNS) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)
    return path


def load(rt: Runtime, path: Path) -> tuple[dict[str, int], list[tuple[int, str]]]:
    """Import a file; return the counts, and the line and field of each refused row."""
    counts, refused = {"inserted": 0, "updated": 0, "unchanged": 0}, []
    for done in bulk.import_file(rt, path, at=AT, actor=SYSTEM):
        for what in counts:
            counts[what] += getattr(done.merged, what)
        refused += [(each.index, each.field) for each in done.rejections]
    return counts, refused


def record(rows: Sequence[dict[str, Any]]) -> Any:
    reports = [{key: value for key, value in row.items() if value} for row in rows]
    return call(sessions.record_instances, instances=reports, actor=SYSTEM, at=AT.isoformat())


def test_the_quarters_file_ends_in_exactly_the_rows_that_the_task_makes(rt: Runtime) -> None:
    sessions = load_quarter()
    counts, refused = load(rt, FILE)
    assert (counts, refused) == ({"inserted": len(sessions), "updated": 0, "unchanged": 0}, [])
    imported = held(rt)
    forget(rt)
    with gzip.open(FILE, "rt") as file:
        rows = list(csv.DictReader(file))
    for begin in range(0, len(rows), 5000):
        record(rows[begin : begin + 5000])
    assert imported == held(rt)
    assert load(rt, FILE)[0] == {"inserted": 0, "updated": 0, "unchanged": len(sessions)}
    assert imported == held(rt)


def odd_rows() -> list[dict[str, Any]]:
    """Corrections, repetitions, other spellings, contradictions, and everything that can be wrong with a row."""
    names = [str(make_id(number)) for number in range(9)]
    return [
        session_row(instance_id=names[0], source="eu"),
        session_row(instance_id=names[0], observed_at=START + HOUR, stopped_at=START + HOUR),
        session_row(instance_id=names[0], source="eu"),
        session_row(instance_id=names[1].upper(), attribution_id=user("a"), source="us"),
        session_row(instance_id=names[1], attribution_id=user("b")),
        session_row(instance_id=names[2], attribution_id=team("a")),
        session_row(instance_id=names[2], attribution_id=team("b")),
        session_row(instance_id=names[3], workspace_class="gold", attribution_id=team("never")),
        session_row(instance_id=names[4], started_at="2026-02-30T00:00:00Z"),
        session_row(instance_id=names[4], started_at="2026-01-01T01:00:00.5+01:00", created_at="2026-01-01 00:00:00Z"),
        session_row(instance_id=names[5], started_at="2026-01-01T00:00:00.25Z", stopping_at=START + HOUR),
        session_row(instance_id=names[6], observed_at="2026-01-03T00:00:00Z"),
        session_row(instance_id=names[7], workspace_id="x" * 256),
        session_row(instance_id=names[7], workspace_id="a\x00b"),
        session_row(instance_id=names[7], workspace_id='quoted, "text"\u00e4'),
        session_row(instance_id="", workspace_id="no id"),
        session_row(instance_id=names[8], started_at="0001-01-01T00:00:00Z"),
        session_row(instance_id=names[8], user_id="ann"),
    ]


def test_odd_rows_end_as_they_do_by_the_task(rt: Runtime, tmp_path: Path) -> None:
    rows = odd_rows()
    answer = record(rows)
    expected = held(rt)
    forget(rt)
    counts, refused = load(rt, write(tmp_path / "odd.csv", rows))
    assert counts == {what: answer[what] for what in counts}
    assert refused == [(each["index"] + 2, each["field"]) for each in answer["rejections"]]
    assert held(rt) == expected


def test_a_refused_row_is_quarantined_with_its_line(rt: Runtime, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.csv", [session_row(), session_row(workspace_class="gold")])
    path.write_text(path.read_text() + "one,two\n")
    assert load(rt, path)[1] == [(3, "workspace_class"), (4, "report")]
    with rt.transaction() as connection:
        kept = connection.execute(text("SELECT report FROM quarantined_report")).scalars()
        assert sorted(json.loads(each)["line"] for each in kept) == [3, 4]


def test_a_session_of_another_account_is_refused_by_its_line(rt: Runtime, tmp_path: Path) -> None:
    row = session_row(attribution_id=team("a"))
    record([row])
    path = write(tmp_path / "foreign.csv", [row, row | {"attribution_id": team("b"), "stopped_at": AT.isoformat()}])
    assert load(rt, path)[1] == [(3, "attribution_id")]
    assert [row[COLUMNS.index("stopped_at")] for row in held(rt)[0]] == [None]


def test_chunks_are_committed_one_by_one_and_end_in_the_same_rows(rt: Runtime, tmp_path: Path) -> None:
    path = write(tmp_path / "odd.csv", odd_rows())
    load(rt, path)
    whole = held(rt, rest=False)
    forget(rt)
    chunks = bulk.import_file(rt, path, at=AT, actor=SYSTEM, chunk_lines=2)
    next(chunks)
    assert held(rt)[0]
    load(rt, path)
    assert held(rt, rest=False) == whole


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("", "a header line with instance_id"),
        ("instance_id,workspace_id,user_id,attribution_id,workspace_class", "a header line with started_at"),
        (",".join([*COLUMNS, "colour"]), r"`header`: must be a header line with only instance_id.* \(got 'colour'\)"),
        (",".join([*COLUMNS, "source"]), "a header line with each column once"),
    ],
)
def test_a_header_that_will_not_do_is_refused_by_name(rt: Runtime, tmp_path: Path, header: str, told: str) -> None:
    path = tmp_path / "file.csv"
    path.write_text(header + "\n")
    with pytest.raises(InvalidInputError, match=told):
        load(rt, path)


def test_the_command_prints_counts_and_the_refused_lines(
    rt: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TestClock(rt.redis).advance(AT)
    for rows, code, told in (
        ([session_row()], 0, ""),
        ([session_row(), session_row(user_id="x" * 201)], 1, "line 3: user_id: must be a UUID such as "),
    ):
        with pytest.raises(typer.Exit) as ended:
            import_reports(write(tmp_path / "file.csv", rows))
        printed = capsys.readouterr()
        assert ended.value.exit_code == code
        assert printed.err.startswith(told)
        assert json.loads(printed.out)["inserted"] == 1


def test_a_broken_file_says_so_and_what_was_taken_up(
    rt: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TestClock(rt.redis).advance(AT)
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(FILE.read_bytes()[:20_000])
    with pytest.raises(typer.Exit) as ended:
        import_reports(broken)
    assert ended.value.exit_code == 2
    assert '"inserted": 0' in capsys.readouterr().err


def wait_for_lock(connection: Connection, what: str) -> None:
    """Wait until another connection waits for a lock, and evaluate an expression of its `pid`."""
    waiting = f"SELECT {what} FROM pg_stat_activity WHERE wait_event_type = 'Lock'"  # noqa: S608 - constants
    give_up_at = time.monotonic() + 20
    while not connection.execute(text(waiting)).all():
        assert time.monotonic() < give_up_at
        connection.execute(text("SELECT pg_stat_clear_snapshot()"))


def test_a_chunk_whose_connection_breaks_is_taken_up_again(rt: Runtime, tmp_path: Path) -> None:
    row = session_row()
    record([row])
    path = write(tmp_path / "file.csv", [row | {"stopped_at": AT.isoformat()}])
    with ThreadPoolExecutor() as pool, rt.transaction() as connection:
        connection.execute(text("SELECT FROM workspace_instance FOR UPDATE"))
        done = pool.submit(load, rt, path)
        wait_for_lock(connection, "pg_terminate_backend(pid)")
        connection.commit()
        assert done.result() == ({"inserted": 0, "updated": 1, "unchanged": 0}, [])


@pytest.mark.parametrize("what", ["pid", "pg_terminate_backend(pid)"])
def test_new_rows_that_another_adds_meanwhile_are_merged(rt: Runtime, tmp_path: Path, what: str) -> None:
    rows = [session_row(stopped_at=AT), session_row(observed_at=START)]
    path = write(tmp_path / "file.csv", rows)
    with ThreadPoolExecutor() as pool, rt.transaction() as connection:
        known = [session_report(instance_id=UUID(row["instance_id"]), observed_at=START) for row in rows]
        merge_reports(connection, known)
        done = pool.submit(load, rt, path)
        wait_for_lock(connection, what)
        connection.commit()
        assert done.result() == ({"inserted": 0, "updated": 1, "unchanged": 1}, [])


def test_a_session_that_the_latest_snapshot_misses_is_missed_from_the_start(rt: Runtime, tmp_path: Path) -> None:
    late = AT - HOUR
    call(sessions.report_running, source="eu", instances=[], at=late.isoformat(), actor=SYSTEM)
    rows = [session_row(source=source, observed_at=START) for source in ("eu", "us", "")]
    load(rt, write(tmp_path / "file.csv", rows))
    imported = held(rt)
    assert sorted(str(row[COLUMNS.index("source")]) for row in imported[0] if row[-4] == late) == ["eu"]
    with rt.transaction() as connection:
        connection.execute(text("TRUNCATE workspace_instance, open_session"))
    record(rows)
    assert held(rt) == imported


@pytest.mark.parametrize("first", [{}, {"stopped_at": START + HOUR}])
def test_a_session_observed_as_late_as_may_be_is_taken_up_as_a_whole(
    rt: Runtime, tmp_path: Path, first: dict[str, Any]
) -> None:
    row = session_row(observed_at=START, **first)
    rows = [row, {key: value for key, value in row.items() if key != "stopped_at"}]
    rows[1]["observed_at"] = (AT + DAY).isoformat()
    answer = record(rows)
    expected = held(rt)
    forget(rt)
    counts, refused = load(rt, write(tmp_path / "file.csv", rows))
    assert (counts, refused) == ({what: answer[what] for what in counts}, [])
    assert held(rt) == expected


def test_a_database_that_stays_away_is_an_exit_code_of_its_own(
    rt: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TestClock(rt.redis).advance(AT)
    path = write(tmp_path / "file.csv", [session_row(stopped_at=AT)])
    with rt.transaction() as connection:
        connection.execute(text("LOCK TABLE workspace_instance"))
        with ThreadPoolExecutor() as pool:
            done = pool.submit(import_reports, path)
            while not done.done():
                connection.execute(text("SELECT pg_stat_clear_snapshot()"))
                connection.execute(
                    text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
                )
        with pytest.raises(typer.Exit) as ended:
            done.result()
    assert ended.value.exit_code == os.EX_TEMPFAIL
    assert 'taken up before: {"inserted": 0' in capsys.readouterr().err


def test_memory_does_not_follow_the_size_of_the_file(rt: Runtime, tmp_path: Path) -> None:
    peaks = []
    for count in (2000, 12000):
        rows = [session_row(stopped_at=START + HOUR) for _ in range(count)]
        path = write(tmp_path / f"{count}.csv", rows)
        del rows
        tracemalloc.start()
        for _ in bulk.import_file(rt, path, at=AT, actor=SYSTEM, chunk_lines=250):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
