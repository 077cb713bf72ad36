"""Files that say how sessions change: repeated rows in one file, or a second file with the changes alone."""

import csv
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text

from tests.factories import DAY, HOUR, START, SYSTEM, call, make_id, session_row, team
from usage_tasks import bulk
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.tasks.usage import quarantine, sessions

AT = START + 2 * DAY
NIGHT = str(make_id("night"))
GROWN = str(make_id("grown"))
WHOLE = [
    session_row(instance_id=GROWN, workspace_class="large", stopped_at=START + 10 * HOUR, observed_at=START + DAY),
    session_row(instance_id=NIGHT, workspace_class="xlarge", stopped_at=START + DAY, observed_at=START + DAY),
]


def change(instance_id: str, at: datetime, workspace_class: str, **fields: Any) -> dict[str, Any]:
    return {"instance_id": instance_id, "from": at.isoformat(), "workspace_class": workspace_class, **fields}


CHANGES = [
    change(GROWN, START + 9 * HOUR, "xlarge"),
    change(NIGHT, START + 8 * HOUR, "xlarge", state="stopped_kept"),
    change(NIGHT, START + 23 * HOUR, "xlarge", state="running"),
]
FULL = [{**next(row for row in WHOLE if row["instance_id"] == each["instance_id"]), **each} for each in CHANGES]
SEGMENTS: Final[Mapping[str, list[dict[str, Any]]]] = {
    GROWN: [{"from": START + 9 * HOUR, "workspace_class": "xlarge"}],
    NIGHT: [
        {"from": START + 8 * HOUR, "workspace_class": "xlarge", "state": "stopped_kept"},
        {"from": START + 23 * HOUR, "workspace_class": "xlarge"},
    ],
}


@pytest.fixture
def rt(environment: dict[str, str], rt: Runtime) -> Runtime:
    """With a price of the disk that is kept: 0.02 credits a minute."""
    with rt.transaction() as connection:
        connection.execute(
            text("""
                INSERT INTO price_version (workspace_class, effective_from, credits_per_minute, origin, actor)
                VALUES ('xlarge:stopped_kept', '1970-01-01Z', 0.02, 'operator', 'service:tests')
            """)
        )
    return rt


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def load(rt: Runtime, path: Path, *, chunk_lines: int = 5_000) -> list[tuple[int, str]]:
    done = bulk.import_file(rt, path, at=AT, actor=SYSTEM, chunk_lines=chunk_lines)
    return [(each.index, each.field) for part in done for each in part.rejections]


def held(rt: Runtime) -> list[tuple[Any, ...]]:
    """Sessions with their timelines, whenever these were observed."""
    statement = """
        SELECT instance_id, workspace_class, stopped_at,
               (SELECT jsonb_agg(segment - 'observed_at') FROM jsonb_array_elements(timeline) AS segment)
        FROM workspace_instance ORDER BY 1
    """
    with rt.transaction() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def by_task() -> None:
    reports = [row | {"segments": segments_of(row["instance_id"])} for row in WHOLE]
    assert call(sessions.record_instances, instances=reports, actor=SYSTEM, at=AT.isoformat())["quarantined"] == 0


def segments_of(instance_id: str) -> list[dict[str, str]]:
    return [each | {"from": each["from"].isoformat()} for each in SEGMENTS[instance_id]]


@pytest.mark.holds("usage.timeline-import")
@pytest.mark.parametrize("files", [[[*WHOLE, *CHANGES]], [[*WHOLE, *FULL]], [WHOLE, CHANGES], [WHOLE, FULL]])
@pytest.mark.parametrize("chunk_lines", [1, 5_000])
def test_changes_in_files_are_the_segments_of_reports(
    rt: Runtime, tmp_path: Path, files: list[list[dict[str, Any]]], chunk_lines: int
) -> None:
    for number, rows in enumerate(files):
        for _ in range(2):  # a repetition changes nothing
            assert load(rt, write(tmp_path / f"{number}.csv", rows), chunk_lines=chunk_lines) == []
    imported = held(rt)
    with rt.transaction() as connection:
        # 9 h at 0.5 and 1 h at 1; 9 h at 1 and 15 h at 0.02.
        assert get_balance(connection, team(), at=AT) == 33_000 + 54_000 + 1_800
        connection.execute(text("TRUNCATE workspace_instance, open_session"))
    by_task()
    assert held(rt) == imported


def test_a_dry_run_counts_changes_and_writes_nothing(rt: Runtime, tmp_path: Path) -> None:
    path = write(tmp_path / "both.csv", [*WHOLE, *CHANGES])
    done = list(bulk.rehearse_file(rt, path, at=AT, actor=SYSTEM))
    assert [(each.merged.inserted, list(each.rejections)) for each in done] == [(2, [])]
    assert held(rt) == []


@pytest.mark.parametrize("rows", [CHANGES, FULL])
def test_a_change_of_an_unknown_session_waits_in_quarantine(
    rt: Runtime, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    assert load(rt, write(tmp_path / "changes.csv", rows)) == [(2, "from"), (3, "from"), (4, "from")]
    assert held(rt) == []
    assert load(rt, write(tmp_path / "whole.csv", WHOLE)) == []
    answer = call(quarantine.release_quarantined, actor=SYSTEM, field="from", dry_run=False, at=AT.isoformat())
    assert (answer["released"], answer["still_refused"]) == (3, 0)
    with rt.transaction() as connection:
        assert get_balance(connection, team(), at=AT) == 33_000 + 54_000 + 1_800


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (change(GROWN, START, "gold"), "segments.0"),
        (change(GROWN, START, "large", state="suspended"), "segments.0"),
        (change(GROWN, START, "large", state="asleep"), "segments.0.state"),
        (change(GROWN, START, ""), "segments.0.workspace_class"),
        (change(GROWN, START, "large") | {"from": "noon"}, "segments.0.from"),
        (change(GROWN, START, "large", user_id=str(make_id("another"))), "user_id"),
        (change(GROWN, START, "large", attribution_id=team("another")), "attribution_id"),
        (session_row(instance_id=GROWN, workspace_class="large", state="suspended", **{"from": ""}), "state"),
    ],
)
def test_a_change_that_cannot_be_right_is_quarantined_by_its_line(
    rt: Runtime, tmp_path: Path, row: dict[str, Any], field: str
) -> None:
    assert load(rt, write(tmp_path / "whole.csv", WHOLE)) == []
    before = held(rt)
    assert load(rt, write(tmp_path / "change.csv", [row])) == [(2, field)]
    assert held(rt) == before


def test_a_column_named_state_without_changes_is_no_field(rt: Runtime, tmp_path: Path) -> None:
    path = write(tmp_path / "state.csv", [row | {"state": "done"} for row in WHOLE])
    with pytest.raises(InvalidInputError, match=r"`header`.*--ignore-extra"):
        load(rt, path)
    ignoring = bulk.ColumnRules(ignore_extra=True)
    done = list(bulk.import_file(rt, path, at=AT, actor=SYSTEM, rules=ignoring))
    assert sum(each.merged.inserted for each in done) == 2


def test_columns_of_changes_may_be_named_otherwise(rt: Runtime, tmp_path: Path) -> None:
    assert load(rt, write(tmp_path / "whole.csv", WHOLE)) == []
    path = write(tmp_path / "changes.csv", [{"since" if k == "from" else k: v for k, v in CHANGES[0].items()}])
    rules = bulk.ColumnRules.parse(["since=from"], ignore_extra=False)
    assert [each.rejections for each in bulk.import_file(rt, path, at=AT, actor=SYSTEM, rules=rules)] == [[]]
    with rt.transaction() as connection:
        assert get_balance(connection, team(), at=START + 10 * HOUR) == 33_000 + 60_000
