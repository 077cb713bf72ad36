from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.factories import HOUR, START, call, session_row, team
from usage_tasks.runtime import Runtime
from usage_tasks.storage.sessions.quarantine import list_quarantined
from usage_tasks.tasks.task import ArgumentsError
from usage_tasks.tasks.usage import sessions
from usage_tasks.wire import session_reports

ACTOR = "service:tests"


def report(*rows: object, at: object = START + HOUR, source: str = "eu") -> Any:
    moment = at.isoformat() if hasattr(at, "isoformat") else at
    return call(sessions.report_running, source=source, instances=list(rows), actor=ACTOR, at=moment)


def record(*rows: object) -> Any:
    return call(sessions.record_instances, instances=list(rows), actor=ACTOR, at=START.isoformat())


def ended(rt: Runtime) -> int:
    with rt.transaction() as connection:
        statement = "SELECT count(*) FROM workspace_instance WHERE inferred_stopped_at IS NOT NULL"
        return int(connection.execute(text(statement)).scalar_one())


def test_a_snapshot_answers_what_it_healed(rt: Runtime) -> None:
    known = session_row()
    record(known, session_row(source="eu"))
    answer = report(known, session_row(attribution_id=team("new")))
    assert answer == {
        "inserted": 1,
        "updated": 1,
        "unchanged": 0,
        "ended": 1,
        "complete": True,
        "quarantined": 0,
        "rejections": [],
    }


@pytest.mark.holds("usage.source-snapshot")
def test_a_row_that_cannot_be_read_is_quarantined_and_its_session_goes_on(rt: Runtime) -> None:
    readable, missing = session_row(source="eu"), session_row(source="eu")
    record(readable, missing)
    answer = report(readable | {"started_at": "yesterday", "instance_id": readable["instance_id"].upper()})
    assert (answer["ended"], answer["complete"], answer["quarantined"]) == (1, True, 1)
    assert answer["rejections"][0]["field"] == "started_at"
    with rt.transaction() as connection:
        assert [each.field for each in list_quarantined(connection, limit=10)] == ["started_at"]
        statement = "SELECT instance_id::text FROM workspace_instance WHERE inferred_stopped_at IS NOT NULL"
        assert connection.execute(text(statement)).scalars().all() == [missing["instance_id"]]


@pytest.mark.holds("usage.source-snapshot")
@pytest.mark.parametrize(
    "row", ["a text", None, {}, {"instance_id": 42}, {"instance_id": ""}, session_row() | {"instance_id": None}]
)
def test_a_row_that_does_not_say_whose_it_is_ends_nothing_and_the_answer_says_so(rt: Runtime, row: object) -> None:
    record(session_row(source="eu"))
    answer = report(session_row(), row)
    assert (answer["inserted"], answer["ended"], answer["complete"], answer["quarantined"]) == (1, 0, False, 1)
    assert ended(rt) == 0
    assert report(at=START + 2 * HOUR)["ended"] == 2


def test_a_row_that_names_another_source_is_refused(rt: Runtime) -> None:
    answer = report(session_row(source="us"), session_row(source="eu"))
    assert answer["inserted"] == 1
    assert answer["rejections"] == [
        {"index": 0, "field": "source", "reason": "must be 'eu', the source of this snapshot (got 'us')"}
    ]


def test_a_snapshot_over_its_size_is_refused_whole_and_ends_nothing(rt: Runtime) -> None:
    record(session_row(source="eu"))
    with pytest.raises(ArgumentsError, match="`instances`: must be at most 20000 items"):
        report(*[None] * (session_reports.SNAPSHOT_MAX + 1))
    assert ended(rt) == 0


@pytest.mark.parametrize("at", [None, "yesterday", "2026-01-01T00:00:00"])
def test_a_snapshot_without_its_instant_is_refused(rt: Runtime, at: object) -> None:
    with pytest.raises(ArgumentsError, match=r"`at`: must be "):
        report(at=at)


def test_a_snapshots_rows_are_as_old_as_the_snapshot(rt: Runtime) -> None:
    row = session_row()
    report(row)
    record(row | {"observed_at": (START + HOUR - timedelta(seconds=1)).isoformat(), "workspace_id": "other"})
    with rt.transaction() as connection:
        held = connection.execute(text("SELECT workspace_id, observed_at, last_seen_at FROM workspace_instance"))
        assert tuple(held.one()) == (row["workspace_id"], START + HOUR, START + HOUR)
