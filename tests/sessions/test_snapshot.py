"""Source snapshots: the sessions that they renew, add and end, and that they converge with reports in any order."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.examples import examples
from tests.factories import DAY, HOUR, START, make_id, record, see, session_report, stopped_report, team
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger.balances import get_balance

MINUTE = timedelta(minutes=1)
ENTRIES = "SELECT kind, credit_cents FROM ledger_entry ORDER BY key"
ENDS = "SELECT instance_id, stopped_at, inferred_stopped_at, final_at, ended_at FROM workspace_instance ORDER BY 1"


def rows(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(text(statement))]


def running(**fields: Any) -> SessionReport:
    return session_report(workspace_class="xlarge", source="eu", **fields)


def inferred(connection: Connection) -> list[datetime | None]:
    return [row[2] for row in rows(connection, ENDS)]


@pytest.mark.holds("usage.source-snapshot")
def test_a_session_that_a_snapshot_misses_ends_at_its_last_proof_of_life(connection: Connection) -> None:
    lost, alive = running(observed_at=START + HOUR), running(observed_at=START + HOUR)
    record(connection, lost, alive)
    healed = see(connection, "eu", START + 3 * HOUR, alive)
    assert (healed.ended, healed.complete) == (1, True)
    ends = {row[0]: row[1:] for row in rows(connection, ENDS)}
    assert ends[lost.instance_id] == (None, START + HOUR, START + HOUR, START + HOUR)
    assert ends[alive.instance_id] == (None, None, None, None)
    assert post_batch(connection, at=START + 4 * HOUR).credit_cents == 6000
    assert get_balance(connection, team(), at=START + 4 * HOUR) == 6000 + 24_000
    assert verify(connection, at=START + 4 * HOUR).clean


def test_an_ended_session_is_told_in_its_accounts_audit(connection: Connection) -> None:
    record(connection, running(), running(), running(attribution_id=team("other")))
    see(connection, "eu", START + HOUR)
    told = "SELECT attribution_id, details FROM audit WHERE action = 'sessions.missing' ORDER BY details -> 'ended'"
    expected = [(team("other"), {"source": "eu", "ended": 1}), (team(), {"source": "eu", "ended": 2})]
    assert rows(connection, told) == expected


def test_a_snapshot_takes_up_what_is_unknown(connection: Connection) -> None:
    healed = see(connection, "eu", START + HOUR, running(attribution_id=team("new")))
    assert (healed.recorded.merged.inserted, healed.ended) == (1, 0)
    assert get_balance(connection, team("new"), at=START + 2 * HOUR) == 12_000
    assert rows(connection, "SELECT attribution_id FROM cost_center") == [(team("new"),)]


def test_the_same_snapshot_again_changes_nothing(connection: Connection) -> None:
    record(connection, running())
    known = running()
    assert see(connection, "eu", START + HOUR, known).ended == 1
    before = rows(connection, "SELECT * FROM workspace_instance ORDER BY 1"), rows(connection, "SELECT * FROM audit")
    again = see(connection, "eu", START + HOUR, known)
    assert (again.ended, again.recorded.merged.unchanged) == (0, 1)
    assert before == (rows(connection, "SELECT * FROM workspace_instance ORDER BY 1"), rows(connection, "TABLE audit"))


@pytest.mark.holds("usage.source-snapshot")
def test_a_session_first_seen_after_the_snapshot_was_taken_goes_on(connection: Connection) -> None:
    record(connection, running(observed_at=START + HOUR + MINUTE), running(observed_at=START + HOUR))
    assert see(connection, "eu", START + HOUR).ended == 0


@pytest.mark.holds("usage.source-snapshot")
def test_a_snapshot_ends_nothing_of_another_source_or_of_none(connection: Connection) -> None:
    record(connection, session_report(source="us"), session_report(), stopped_report(source="eu"))
    assert see(connection, "eu", START + DAY).ended == 0
    assert inferred(connection) == [None, None, None]


def test_a_session_that_moved_is_not_missed_where_it_was(connection: Connection) -> None:
    moved = running()
    record(connection, moved)
    see(connection, "us", START + HOUR, moved)
    assert see(connection, "eu", START + 2 * HOUR).ended == 0
    assert see(connection, "us", START + 2 * HOUR).ended == 1


def test_a_late_report_of_a_move_counts_for_the_snapshots_of_the_place_it_moved_to(connection: Connection) -> None:
    moved, stays = running(), running()
    record(connection, moved, stays)
    see(connection, "eu", START + 2 * HOUR)
    late = {"instance_id": moved.instance_id, "workspace_class": "xlarge", "observed_at": START + HOUR}
    record(connection, session_report(source="us", **late))
    ends = {row[0]: row[2] for row in rows(connection, ENDS)}
    assert ends == {moved.instance_id: None, stays.instance_id: START}
    see(connection, "ap", START + 3 * HOUR)
    record(connection, session_report(source="ap", **late | {"observed_at": START + 2 * HOUR}))
    assert {row[0]: row[2] for row in rows(connection, ENDS)}[moved.instance_id] == START + 2 * HOUR


def test_a_report_without_a_source_leaves_it_where_it_was(connection: Connection) -> None:
    first = running()
    record(connection, first)
    record(connection, session_report(instance_id=first.instance_id, observed_at=START + HOUR))
    assert see(connection, "eu", START + 2 * HOUR).ended == 1


def test_an_older_snapshot_that_arrives_late_ends_nothing_that_was_seen_since(connection: Connection) -> None:
    alive = running()
    record(connection, alive)
    see(connection, "eu", START + 2 * HOUR, alive)
    assert see(connection, "eu", START + HOUR).ended == 0
    assert inferred(connection) == [None]


def test_an_older_snapshot_takes_up_what_the_newer_one_has_already_ended(connection: Connection) -> None:
    see(connection, "eu", START + 2 * HOUR)
    see(connection, "eu", START + HOUR, running())
    assert inferred(connection) == [START + HOUR]
    assert verify(connection, at=START + HOUR - MINUTE).clean


def test_an_older_snapshot_does_not_make_the_newer_one_forgotten(connection: Connection) -> None:
    see(connection, "eu", START + 3 * HOUR)
    see(connection, "eu", START + HOUR)
    record(connection, running(observed_at=START + 2 * HOUR))
    assert inferred(connection) == [START + 2 * HOUR]


@pytest.mark.holds("usage.source-snapshot")
def test_a_session_that_was_wrongly_ended_comes_back_and_its_entry_is_adjusted(connection: Connection) -> None:
    session = running()
    record(connection, session)
    see(connection, "eu", START + HOUR)
    see(connection, "eu", START + 30 * MINUTE, session)
    assert post_batch(connection, at=START + HOUR).credit_cents == 3000
    record(connection, running(instance_id=session.instance_id, observed_at=START + 2 * HOUR))
    assert inferred(connection) == [None]
    assert [get_balance(connection, team(), at=START + hours * HOUR) for hours in (0, 1, 2, 3)] == [
        0,
        6000,
        12_000,
        18_000,
    ]
    assert post_batch(connection, at=START + 3 * HOUR).entries == 0
    end = {"instance_id": session.instance_id, "workspace_class": "xlarge"}
    record(connection, stopped_report(4 * HOUR, **end))
    assert post_batch(connection, at=START + DAY).credit_cents == 21_000
    assert rows(connection, ENTRIES) == [("session", 3000), ("adjustment", 21_000)]
    assert verify(connection, at=START + DAY).clean


@pytest.mark.holds("usage.source-snapshot")
def test_a_real_stop_corrects_an_inferred_one(connection: Connection) -> None:
    session = running(observed_at=START + HOUR)
    record(connection, session)
    see(connection, "eu", START + 5 * HOUR)
    assert post_batch(connection, at=START + 5 * HOUR).credit_cents == 6000
    real = stopped_report(30 * MINUTE, instance_id=session.instance_id, workspace_class="xlarge")
    record(connection, real)
    assert post_batch(connection, at=START + 5 * HOUR).credit_cents == -3000
    assert see(connection, "eu", START + 6 * HOUR).ended == 0
    assert [row[1:] for row in rows(connection, ENDS)] == [(real.stopped_at, None, real.stopped_at, real.stopped_at)]


def test_a_refused_row_whose_session_is_known_keeps_it_running(connection: Connection) -> None:
    sessions = [running(), running()]
    record(connection, *sessions)
    healed = see(connection, "eu", START + HOUR, running(instance_id=sessions[0].instance_id, attribution_id=team("x")))
    assert (healed.ended, healed.complete, len(healed.recorded.rejections)) == (1, True, 1)
    ends = {row[0]: row[2] for row in rows(connection, ENDS)}
    assert ends == {sessions[0].instance_id: None, sessions[1].instance_id: START}


def test_a_refused_row_brings_an_ended_session_back(connection: Connection) -> None:
    session = running()
    record(connection, session)
    see(connection, "eu", START + HOUR)
    post_batch(connection, at=START + HOUR)
    see(connection, "eu", START + 2 * HOUR, running(instance_id=session.instance_id, attribution_id=team("x")))
    assert inferred(connection) == [None]
    assert get_balance(connection, team(), at=START + HOUR) == 6000


def test_a_report_and_a_snapshot_at_once_see_one_another(database: Database) -> None:
    with database.transaction() as connection:
        see(connection, "eu", START)

    def snapshot() -> int:
        with database.transaction() as connection:
            return see(connection, "eu", START + 2 * HOUR).ended

    with ThreadPoolExecutor() as pool:
        with database.transaction() as connection:
            record(connection, running(observed_at=START + HOUR))
            later = pool.submit(snapshot)
            with pytest.raises(TimeoutError):
                later.result(timeout=0.2)
        assert later.result() == 1
    with database.transaction() as connection:
        assert verify(connection, at=START).clean


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A snapshot as data."""

    source: str
    at: datetime
    listed: tuple[SessionReport, ...]


def moments(last: int) -> st.SearchStrategy[Any]:
    return st.none() | st.integers(0, last).map(lambda quarters: START + 15 * MINUTE * quarters)


@st.composite
def reports(draw: st.DrawFn) -> SessionReport:
    return session_report(
        instance_id=make_id(draw(st.integers(0, 2))),
        workspace_class=draw(st.sampled_from(["small", "xlarge"])),
        started_at=START + draw(st.integers(0, 4)) * MINUTE,
        stopping_at=draw(st.none() | st.none() | moments(8)),
        stopped_at=draw(st.none() | st.none() | moments(8)),
        observed_at=START + draw(st.integers(0, 6)) * HOUR,
        source=draw(st.none() | st.sampled_from(["eu", "us"])),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Taken:
    at = START + draw(st.integers(0, 6)) * HOUR
    alive = reports().map(lambda each: session_report(instance_id=each.instance_id, observed_at=at))
    listed = draw(st.lists(alive, max_size=2, unique_by=lambda each: each.instance_id))
    return Taken(source=draw(st.sampled_from(["eu", "us"])), at=at, listed=tuple(listed))


OBSERVATIONS = st.lists(st.one_of(reports(), snapshots()), min_size=1, max_size=6)


def take(connection: Connection, observation: SessionReport | Taken) -> None:
    if isinstance(observation, Taken):
        see(connection, observation.source, observation.at, *observation.listed)
    else:
        record(connection, observation)


def outcome(connection: Connection, order: Sequence[SessionReport | Taken], ticks: Sequence[bool]) -> object:
    savepoint = connection.begin_nested()
    for observation, tick in zip(order, ticks, strict=True):
        take(connection, observation)
        if tick:
            post_batch(connection, at=START + DAY)
    balance = get_balance(connection, team(), at=START + DAY)
    post_batch(connection, at=START + DAY)
    assert get_balance(connection, team(), at=START + DAY) == balance
    verdict = verify(connection, at=START + DAY)
    assert verdict.clean, verdict.describe()
    found = rows(connection, ENDS), balance
    savepoint.rollback()
    return found


def expected_stops(observations: Sequence[SessionReport | Taken]) -> dict[object, datetime | None]:
    """Return the sessions that end without a stop report, from all observations: nothing of the statements is used."""
    seen: list[tuple[object, datetime, str | None, bool]] = []
    for each in observations:
        if isinstance(each, Taken):
            seen += [(row.instance_id, each.at, each.source, False) for row in each.listed]
        else:
            seen.append((each.instance_id, each.observed_at, each.source, each.stopped_at is not None))
    stops: dict[object, datetime | None] = {}
    for session in {instance_id for instance_id, *_ in seen}:
        own = [(at, source, stopped) for instance_id, at, source, stopped in seen if instance_id == session]
        placed = [(at, source) for at, source, _ in own if source is not None]
        where = max(placed)[1] if placed else None
        missed = [each.at for each in observations if isinstance(each, Taken) and each.source == where]
        stops[session] = None
        if missed and not any(stopped for *_, stopped in own):
            last = max(at for at, *_ in own)
            stops[session] = last if max(missed) > last else None
    return stops


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), batch=OBSERVATIONS)
def test_reports_and_snapshots_in_any_order_end_in_the_same_facts_and_total(
    connection: Connection, data: st.DataObject, batch: list[SessionReport | Taken]
) -> None:
    straight: Any = outcome(connection, batch, [False] * len(batch))
    assert {row[0]: row[2] for row in straight[0]} == expected_stops(batch)
    repeated = [*batch, *data.draw(st.lists(st.sampled_from(batch), max_size=3))]
    shuffled = data.draw(st.permutations(repeated))
    ticks = data.draw(st.lists(st.booleans(), min_size=len(shuffled), max_size=len(shuffled)))
    assert outcome(connection, shuffled, ticks) == straight
