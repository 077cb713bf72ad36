"""The database merges batches of reports exactly as the domain does, session by session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.factories import HOUR, START, make_id, session_report
from usage_tasks.domain.merging import KnownSession, merge
from usage_tasks.domain.prices import State
from usage_tasks.domain.sessions import CapReason, SessionReport
from usage_tasks.domain.timelines import Segment
from usage_tasks.domain.zombies import Cap
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.pricing.timelines_sql import decode
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
INSTANTS = [START + hours * HOUR for hours in (1, 2, 3)]
ENDS = [(None, None)] * 4 + [(START, None), (None, START + HOUR), (START + HOUR, START), (START, START + HOUR)]
TIES: Mapping[str, Sequence[Any]] = {
    "created_at": [None, START],
    "started_at": [START, START + HOUR],
    "workspace_id": ["ws-1", "z"],
    "present": [False, True],
}
FIXED: Mapping[str, Sequence[Any]] = {
    "workspace_class": ["small", "z"],
    "user_id": [make_id("owner"), make_id("another")],
}
# Many sessions a statement, seeded by Hypothesis: it would draw them one by one for longer than the SQL takes.
RANDOMS = st.randoms(use_true_random=True)
SESSIONS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One session: the reports of a first batch, a cap set after it, and the reports of a second batch."""

    first: Sequence[SessionReport]
    cap_reason: CapReason | None
    second: Sequence[SessionReport]


def random_values(rng: Random, choices: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    return {field: rng.choice(values) for field, values in choices.items()}


def random_report(rng: Random, fixed: Mapping[str, Any]) -> SessionReport:
    stopping_at, stopped_at = rng.choice(ENDS)
    observed_at = rng.choice(INSTANTS)
    report = session_report(observed_at=observed_at, stopping_at=stopping_at, stopped_at=stopped_at, **fixed)
    return replace(report, segments=random_segments(rng, observed_at), **random_values(rng, TIES))


def random_segments(rng: Random, observed_at: datetime) -> tuple[Segment, ...]:
    begins = rng.sample(INSTANTS, rng.choice([0, 0, 0, 1, 2, 3]))
    return tuple(
        Segment(
            begins_at=begins_at,
            observed_at=observed_at,
            workspace_class=rng.choice(["small", "z"]),
            state=rng.choice(list(State)),
        )
        for begins_at in sorted(begins)
    )


def random_case(rng: Random) -> Case:
    """A second batch that does not repeat the first one may contradict it: then it changes nothing."""
    fixed = random_values(rng, FIXED)
    first = [random_report(rng, fixed) for _ in range(rng.randrange(1, 4))]
    repeated = rng.choice([[], first])
    later_fixed = fixed if repeated else rng.choice([fixed, random_values(rng, FIXED)])
    return Case(
        first=first,
        cap_reason=rng.choice([None, *CapReason]),
        second=[*repeated, *(random_report(rng, later_fixed) for _ in range(rng.randrange(4)))],
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
        first_seen_at = row.first_observed_at or row.observed_at
        assert (first_seen_at, row.start_reported_at or first_seen_at) == known.fixed[:2]
        assert decode(row.timeline) == known.timeline
        assert (row.timeline is None) == (not known.timeline)
        assert (row.capped_at, row.cap_reason) == ((known.cap.at, known.cap.reason) if known.cap else (None, None))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=RANDOMS, seen_at=st.sampled_from([None, *INSTANTS]), arrived_at=st.sampled_from([None, *INSTANTS]))
def test_the_database_merges_as_the_domain_does(
    connection: Connection, rng: Random, seen_at: datetime | None, arrived_at: datetime | None
) -> None:
    cases = [random_case(rng) for _ in range(SESSIONS)]
    first = [merge(None, case.first, arrived_at=arrived_at) for case in cases]
    sessions = [capped(known, case.cap_reason) for known, case in zip(first, cases, strict=True)]
    with rehearsal(connection):
        done = merge_reports(connection, numbered([case.first for case in cases]), arrived_at=arrived_at)
        assert done.inserted == len(cases)
        assert_stored(connection, first)
        put_caps(connection, sessions)
        merge_reports(connection, numbered([case.second for case in cases]), seen_at=seen_at, arrived_at=arrived_at)
        assert_stored(
            connection,
            [
                merge(known, case.second, seen_at=seen_at, arrived_at=arrived_at) if case.second else known
                for known, case in zip(sessions, cases, strict=True)
            ],
        )
