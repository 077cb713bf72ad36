import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.factories import HOUR, QUIET_TICK, START, call, session_row, team, user
from usage_tasks.runtime import Runtime
from usage_tasks.storage.sessions.quarantine import QuarantinedReport, list_quarantined
from usage_tasks.tasks.task import ArgumentsError
from usage_tasks.tasks.usage import accounts, ledger, sessions

ACTOR = "service:tests"
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - what the test is about
EXACTLY_UUID = "a UUID such as 11111111-2222-4333-8444-555555555555"

MALFORMED: list[tuple[object, str, str]] = [
    ("a text", "report", "must be an object (got 'a text')"),
    (7, "report", "must be an object (got 7)"),
    (None, "report", "must be an object (got None)"),
    ([session_row()], "report", "must be an object (got [{"),
    ({}, "instance_id", "must be given (got nothing)"),
    (
        session_row(started_at=None, stopped_at=START),
        "started_at",
        "must be an ISO 8601 text with an offset, such as 2026-01-31T12:00:00Z (got None)",
    ),
    (session_row(instance_id="42 "), "instance_id", "without a space at either end (got '42 ')"),
    (session_row(instance_id=42), "instance_id", "must be text (got 42)"),
    (session_row(user_id="0" * 32), "user_id", f"must be {EXACTLY_UUID}, or an id that does not look like one (got "),
    (session_row(attribution_id="team"), "attribution_id", "must be team:<id> or user:<id> (got 'team')"),
    (session_row(attribution_id=team() + "\n"), "attribution_id", r"\n')"),
    (session_row(workspace_class="gold"), "workspace_class", "must be a class with a price: "),
    (session_row(workspace_class=""), "workspace_class", "must be at least 1 character (got '')"),
    (session_row(started_at=NAIVE), "started_at", "must be an ISO 8601 text with an offset"),
    (
        session_row(started_at="yesterday"),
        "started_at",
        "must be an ISO 8601 text with an offset, such as 2026-01-31T12:00:00Z (got 'yesterday')",
    ),
    (
        session_row(started_at=1767225600),
        "started_at",
        "must be an ISO 8601 text with an offset, such as 2026-01-31T12:00:00Z (got 1767225600)",
    ),
    (
        session_row(started_at="1767225600"),
        "started_at",
        "must be an ISO 8601 text with an offset, such as 2026-01-31T12:00:00Z (got '1767225600')",
    ),
    (
        session_row(started_at="20260101"),
        "started_at",
        "must be an ISO 8601 text with an offset, such as 2026-01-31T12:00:00Z (got '20260101')",
    ),
    (session_row(started_at="2026-01-01"), "started_at", "(got '2026-01-01')"),
    (session_row(started_at="2026-13-01T00:00:00Z"), "started_at", "(got '2026-13-01T00:00:00Z')"),
    (session_row(started_at="1970-01-01T00:00:00+14:00"), "started_at", "must be in the years from 1970 to 9000"),
    (session_row(observed_at=START + timedelta(days=400)), "observed_at", "at most a day after"),
    (session_row(stopped_at="0001-01-01T00:00:00Z"), "stopped_at", "must be in the years from 1970 to 9000"),
    (session_row(stopped_at="9999-12-31T23:59:59-23:00"), "stopped_at", "must be in the years from 1970 to 9000"),
    (
        session_row(stopped_at=False),
        "stopped_at",
        "must be an ISO 8601 text with an offset, such as 2026-01-31T12:00:00Z (got False)",
    ),
    (session_row(workspace_id="ws\x00"), "workspace_id", r"must be printable text (got 'ws\x00')"),
    (session_row(workspace_id="ws\ud800"), "workspace_id", r"(got 'ws\ud800')"),
    (session_row(workspace_class="\udfff"), "workspace_class", r"(got '\udfff')"),
    (session_row(started_at="\x00"), "started_at", r"(got '\x00')"),
    (session_row(workspace_id=7), "workspace_id", "must be text (got 7)"),
    (session_row(workspace_id="x" * 256), "workspace_id", "at most 255 characters"),
    (session_row(colour="red"), "colour", "no such field"),
    (session_row(**{"\x00": 1}), r"\x00", "no such field"),
    (session_row(**{"\ud800": 1}), "report", "must be text"),
]


def record(*rows: object, at: datetime = START) -> dict[str, Any]:
    answer = call(sessions.record_instances, instances=list(rows), actor=ACTOR, at=at.isoformat())
    assert isinstance(answer, dict)
    return answer


def quarantined(rt: Runtime) -> list[QuarantinedReport]:
    with rt.transaction() as connection:
        return list(list_quarantined(connection, limit=1000))


@pytest.mark.holds("lesson.bad-row")
def test_good_rows_go_in_and_each_bad_one_comes_back_with_place_field_and_reason(rt: Runtime) -> None:
    batch = [row for bad, _, _ in MALFORMED for row in (session_row(), bad)]
    answer = record(*batch)
    assert (answer["inserted"], answer["updated"], answer["unchanged"]) == (len(MALFORMED), 0, 0)
    assert answer["quarantined"] == len(MALFORMED)
    for number, ((_, field, reason), told) in enumerate(zip(MALFORMED, answer["rejections"], strict=True)):
        assert (told["index"], told["field"]) == (2 * number + 1, field)
        assert reason in told["reason"]
    json.dumps(answer, ensure_ascii=False).encode()


@pytest.mark.holds("numbers.release-refused")
def test_a_bad_row_stands_in_quarantine_once_however_often_it_is_sent(rt: Runtime) -> None:
    rows = [bad for bad, _, _ in MALFORMED]
    answers = [record(*rows) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    kept = quarantined(rt)
    assert len(kept) == len(MALFORMED)
    assert {each.times_seen for each in kept} == {3}
    assert {each.actor for each in kept} == {ACTOR}
    assert sorted((each.field, each.reason) for each in kept) == sorted(
        (told["field"], told["reason"]) for told in answers[0]["rejections"]
    )
    assert sorted(each.report for each in kept) == sorted(json.dumps(row, sort_keys=True) for row in rows)


def test_a_start_that_is_missing_although_a_stop_is_given_is_said_so(rt: Runtime) -> None:
    row = session_row(stopped_at=START)
    del row["started_at"]
    (told,) = record(row)["rejections"]
    assert (told["field"], told["reason"]) == (
        "started_at",
        "must be given, although stopped_at is given (got nothing)",
    )


def test_a_time_of_any_offset_is_the_same_instant(rt: Runtime) -> None:
    record(session_row(started_at="2026-01-01T02:00:00+02:00"), session_row(started_at="2026-01-01T00:00:00Z"))
    with rt.transaction() as connection:
        starts = connection.execute(text("SELECT DISTINCT started_at FROM workspace_instance")).scalars().all()
    assert starts == [START]


def test_ids_have_one_spelling(rt: Runtime) -> None:
    row = session_row()
    shouted = row | {
        "instance_id": row["instance_id"].upper(),
        "attribution_id": "team:" + row["attribution_id"][5:].upper(),
    }
    assert record(row)["inserted"] == 1
    assert record(shouted)["unchanged"] == 1


def test_a_report_travels_into_the_balance_the_list_and_the_ledger(rt: Runtime) -> None:
    at = (START + 2 * HOUR).isoformat()
    record(session_row(workspace_class="xlarge", stopped_at=START + HOUR), session_row(attribution_id=user()))
    asked = {"attribution_id": team(), "actor": ACTOR, "at": at}
    standing = {"balance_cents": 6000, "spending_limit": 500, "remaining_cents": 44_000, "limit_state": "below"}
    assert call(accounts.get_balance, **asked) == standing
    assert call(ledger.reconcile_usage, at=at) == QUIET_TICK | {"entries": 1, "credit_cents": 6000}
    assert call(ledger.reconcile_usage, at=at) == QUIET_TICK
    assert call(accounts.get_balance, **asked) == standing
    page = call(accounts.list_usage, **asked, start=START.isoformat(), end=(START + timedelta(days=1)).isoformat())
    (entry,) = page["entries"]
    assert (entry["credit_cents"], entry["draft"], entry["effective_at"]) == (6000, False, "2026-01-01T01:00:00Z")


@pytest.mark.parametrize("rows", [[], [session_row()]])
def test_the_same_batch_again_changes_nothing(rt: Runtime, rows: list[object]) -> None:
    assert record(*rows)["inserted"] == len(rows)
    again = record(*rows)
    assert (again["inserted"], again["updated"], again["unchanged"]) == (0, 0, len(rows))


TIMES = ("started_at", "created_at", "stopping_at", "stopped_at", "observed_at")


@pytest.mark.holds("usage.empty-time")
@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_an_empty_text_is_no_time(rt: Runtime, name: str, empty: str) -> None:
    (refused,) = record(session_row(**{name: empty}))["rejections"]
    assert refused["field"] == name
    assert refused["reason"].endswith(f"an ISO 8601 text with an offset, such as 2026-01-31T12:00:00Z (got {empty!r})")
    with pytest.raises(ArgumentsError, match="`at`: "):
        call(sessions.record_instances, instances=[], actor=ACTOR, at=empty)


@pytest.mark.holds("usage.empty-time")
def test_no_time_is_one_that_is_left_out(rt: Runtime) -> None:
    row = session_row() | dict.fromkeys(TIMES[1:])
    assert record(row)["inserted"] == 1


@pytest.mark.holds("usage.start-to-come")
def test_a_session_costs_nothing_before_it_starts(rt: Runtime) -> None:
    begin = START + 3 * HOUR
    row = session_row(started_at=begin, observed_at=START, workspace_class="xlarge")
    assert record(row, at=START)["inserted"] == 1

    def balances(*hours: int) -> list[int]:
        asked = {"attribution_id": team(), "actor": ACTOR}
        return [
            call(accounts.get_balance, **asked, at=(START + hour * HOUR).isoformat())["balance_cents"] for hour in hours
        ]

    assert balances(0, 2, 3, 4) == [0, 0, 0, 6000]
    # A session with its stop before its start ran for no time at all.
    stopped = row | {"stopped_at": START + HOUR, "observed_at": START + HOUR}
    assert record(stopped, at=START + HOUR)["updated"] == 1
    assert balances(1, 3, 5) == [0, 0, 0]
    call(ledger.reconcile_usage, at=(START + 5 * HOUR).isoformat())
    assert balances(5) == [0]
