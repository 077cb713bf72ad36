"""What the database makes of batches of reports is what the domain makes of them, session by session."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.factories import HOUR, START, make_id, session_report
from usage_tasks.domain.merging import KnownSession, merge
from usage_tasks.domain.sessions import CapReason, SessionReport
from usage_tasks.domain.zombies import Cap
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.sessions.merging import merge_reports

CAP_AT = START + 9 * HOUR
FACTS = (
    "user_id",
    "workspace_id",
    "workspace_class",
    "created_at",
    "started_at",
    "stopping_at",
    "stopped_at",
    "observed_at",
)
# Few values, so that reports tie up to the last field; texts on whose order every collation agrees.
INSTANTS = st.sampled_from([START + hours * HOUR for hours in (1, 2, 3)])
ENDS = st.sampled_from(
    [(None, None)] * 4 + [(START, None), (None, START + HOUR), (START + HOUR, START), (START, START + HOUR)]
)
TIES: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {},
        {"created_at": START},
        {"started_at": START + HOUR},
        {"workspace_class": "z"},
        {"workspace_id": "z"},
        {"user_id": make_id("another")},
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One session: the reports of a first batch, a cap that stands then, and the reports of a second batch."""

    first: Sequence[SessionReport]
    cap_reason: CapReason | None
    second: Sequence[SessionReport]


@st.composite
def reports(draw: st.DrawFn) -> SessionReport:
    stopping_at, stopped_at = draw(ENDS)
    report = session_report(observed_at=draw(INSTANTS), stopping_at=stopping_at, stopped_at=stopped_at)
    return replace(report, **draw(TIES))


CASES = st.builds(
    Case,
    first=st.lists(reports(), min_size=1, max_size=3),
    cap_reason=st.sampled_from([None, *CapReason]),
    second=st.lists(reports(), max_size=3),
)


def numbered(batches: Sequence[Sequence[SessionReport]]) -> list[SessionReport]:
    """Give the reports of each session its id, and all of them their place in one batch."""
    named = [replace(report, instance_id=make_id(number)) for number, batch in enumerate(batches) for report in batch]
    return [replace(report, index=index) for index, report in enumerate(named)]


def capped(known: KnownSession, reason: CapReason | None) -> KnownSession:
    ended = known.facts.stopping_at is not None or known.facts.stopped_at is not None
    return known if reason is None or ended else replace(known, cap=Cap(at=CAP_AT, reason=reason))


def put_caps(connection: Connection, sessions: Sequence[KnownSession]) -> None:
    statement = "UPDATE workspace_instance SET capped_at = :at, cap_reason = :reason WHERE instance_id = :instance"
    rows = [
        {"at": known.cap.at, "reason": known.cap.reason.value, "instance": make_id(number)}
        for number, known in enumerate(sessions)
        if known.cap is not None
    ]
    if rows:
        connection.execute(text(statement), rows)


def assert_stored(connection: Connection, sessions: Sequence[KnownSession]) -> None:
    rows = {row.instance_id: row for row in connection.execute(text("SELECT * FROM workspace_instance"))}
    assert len(rows) == len(sessions)
    for number, known in enumerate(sessions):
        row = rows[make_id(number)]
        assert [getattr(row, name) for name in FACTS] == [getattr(known.facts, name) for name in FACTS]
        assert row.last_seen_at == known.last_seen_at
        assert (row.capped_at, row.cap_reason) == ((known.cap.at, known.cap.reason) if known.cap else (None, None))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases=st.lists(CASES, min_size=8, max_size=15), seen_at=st.none() | INSTANTS)
def test_the_database_merges_as_the_domain_does(
    connection: Connection, cases: list[Case], seen_at: datetime | None
) -> None:
    first = [merge(None, case.first) for case in cases]
    sessions = [capped(known, case.cap_reason) for known, case in zip(first, cases, strict=True)]
    with rehearsal(connection):
        done = merge_reports(connection, numbered([case.first for case in cases]))
        assert done.inserted == len(cases)
        assert_stored(connection, first)
        put_caps(connection, sessions)
        merge_reports(connection, numbered([case.second for case in cases]), seen_at=seen_at)
        assert_stored(
            connection,
            [
                merge(known, case.second, seen_at=seen_at) if case.second else known
                for known, case in zip(sessions, cases, strict=True)
            ],
        )
