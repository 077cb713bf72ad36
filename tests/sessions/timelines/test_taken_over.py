"""An earlier report takes a session over: nothing of what waits gets lost, and everyone is answered what was done."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid5

import pytest
from sqlalchemy import Connection, event, text

from tests.factories import DAY, HOUR, LIMITS, START, SYSTEM, make_id
from tests.sessions.timelines.oracle import RUNNING, Session, Told, Value, Version
from tests.sessions.timelines.stories import FIRST_VERSION_AT, USERS, report, segment
from tests.sessions.timelines.system import NOW, System, assert_same
from tests.sessions.timelines.test_any_order import listed_prices
from usage_tasks.domain.timelines import SEGMENTS_MAX
from usage_tasks.services.sessions.record import record_reports
from usage_tasks.storage.directory.names import read_namespace
from usage_tasks.wire.session_reports import parse_reports

SECOND = timedelta(seconds=1)
GOLD = Value("gold", RUNNING)


def test_more_segments_than_a_report_may_hold_come_back_from_quarantine(connection: Connection) -> None:
    # The platform sent them in two parts; a session that is taken over waits as one report per observation.
    segments = [
        segment(START + number * SECOND, ("medium", "xlarge")[number % 2]) for number in range(SEGMENTS_MAX + 1)
    ]
    end = START + HOUR
    told = [
        report(workspace_class="large", observed_at=end, stopped_at=end, segments=segments[:-1]),
        report(workspace_class="large", observed_at=end, stopped_at=end, segments=segments[-1:]),
        report(workspace_class="small", observed_at=START + SECOND),
        report(workspace_class="large", observed_at=START),
    ]
    system = System(connection, {})
    for each in told:
        system.hear(each)
    assert system.timeline() == [each for one in told[:2] for each in Told(one).segments]
    assert system.quarantined() == [told[2]]


def test_a_report_of_the_past_takes_up_what_was_observed_later(connection: Connection) -> None:
    # The earliest report arrives with `at`, as of which a report observed three days later is of the future.
    told = [
        report(workspace_class="large", observed_at=START + 3 * DAY, stopped_at=START + 3 * DAY),
        report(workspace_class="small", observed_at=START + HOUR),
        report(workspace_class="large", observed_at=START),
    ]
    system = System(connection, {})
    for each, at in zip(told, [NOW, NOW, START], strict=True):
        system.hear(each, at=at)
    assert_same(system, Session(told, listed_prices()), [])


def test_a_refused_row_of_a_snapshot_is_not_taken_up(connection: Connection) -> None:
    # Such a row says the present, and was to be compared with what was known as it arrived.
    system = System(connection, {})
    system.hear(report(workspace_class="large", observed_at=START + HOUR))
    row = report(workspace_class="xlarge", observed_at=START + 2 * HOUR, user_id=USERS[1])
    assert len(system.list_in_a_snapshot(row, taken_at=START + 2 * HOUR).rejections) == 1
    earlier = report(workspace_class="xlarge", observed_at=START, user_id=USERS[1])
    system.hear(earlier)
    assert_same(system, Session([earlier], listed_prices()), [])
    assert row in system.quarantined()


def test_a_release_that_takes_a_session_over_is_counted_and_audited(connection: Connection) -> None:
    system = System(connection, {})
    told = [
        report(workspace_class="gold", observed_at=START),
        report(workspace_class="gold", observed_at=START + 2 * HOUR, stopped_at=START + 2 * HOUR),
        report(workspace_class="small", observed_at=START + HOUR),
    ]
    system.hear(*told)
    price = Version(FIRST_VERSION_AT, Decimal(2))
    system.add_price(GOLD, price)
    released = system.release()
    assert_same(system, Session(told, {**listed_prices(), "gold": [price]}), [])
    audited = "SELECT count(*) FROM audit WHERE action = 'quarantine.released'"
    assert connection.execute(text(audited)).scalar_one() == 1
    assert (released.released, released.still_refused) == (2, 0)


def test_a_report_that_changes_a_session_is_not_answered_as_unchanged(connection: Connection) -> None:
    system = System(connection, {})
    end = START + 2 * HOUR
    system.hear(report(workspace_class="large", observed_at=end, stopped_at=end))
    resized = report(workspace_class="large", observed_at=START + HOUR, segments=[segment(START + HOUR, "xlarge")])
    by_a_segment = system.hear(resized).merged
    assert system.balances([NOW]) == [60 * 50 + 60 * 100]
    by_an_earlier_class = system.hear(report(workspace_class="small", observed_at=START)).merged
    assert system.facts()[0].workspace_class == "small"
    assert [each.unchanged for each in (by_a_segment, by_an_earlier_class)] == [0, 0]


def test_a_take_over_by_a_report_with_segments_counts_one_report_once(connection: Connection) -> None:
    system = System(connection, {})
    system.hear(report(workspace_class="large", observed_at=START + HOUR))
    merged = system.hear(report(workspace_class="small", segments=[segment(START, "xlarge")])).merged
    assert (merged.inserted, merged.updated, merged.unchanged) == (0, 1, 0)


def test_a_snapshots_row_that_takes_a_session_over_by_its_user_has_its_own_class(connection: Connection) -> None:
    # An hour at 0.1, as if the row had come first; not at 1.0, the class of the reports that it takes back.
    system = System(connection, {})
    seen_at = START + HOUR
    row = report(workspace_class="small", user_id=USERS[1], observed_at=seen_at)
    later = report(workspace_class="xlarge", user_id=USERS[0], observed_at=START + 2 * HOUR)
    system.hear(later)
    assert system.list_in_a_snapshot(row, taken_at=seen_at).rejections == []
    assert system.balances([seen_at]) == [60 * 10]


def test_a_release_takes_up_what_agrees_after_a_later_part_of_it(connection: Connection) -> None:
    system = System(connection, {})
    row = report(workspace_class="gold", user_id=USERS[1], observed_at=START)
    stop = row | {"observed_at": (START + 2 * HOUR).isoformat(), "stopped_at": (START + 2 * HOUR).isoformat()}
    system.hear(report(user_id=USERS[0], observed_at=START + HOUR))
    assert len(system.hear(stop).rejections) == 1
    assert len(system.list_in_a_snapshot(row, taken_at=START).rejections) == 1
    system.add_price(Value("gold", RUNNING), Version(FIRST_VERSION_AT, Decimal(2)))
    released = system.release()
    assert system.quarantined() == [report(user_id=USERS[0], observed_at=START + HOUR)]
    assert (released.released, released.still_refused) == (2, 0)


def test_a_take_over_keeps_the_names_of_what_waited(connection: Connection) -> None:
    namespace = read_namespace(connection)

    def hear_named(told: dict[str, Any]) -> None:
        reports, malformed = parse_reports([told], at=NOW, namespace=lambda: namespace)
        record_reports(connection, reports, malformed, raw=[told], limits=LIMITS, at=NOW, actor=SYSTEM)

    instance, ann = str(uuid5(namespace, "session:ci-1")), str(uuid5(namespace, "user:ann"))
    hear_named(report(instance_id=instance, observed_at=START + HOUR))
    hear_named(report(instance_id="ci-1", user_id="ann", observed_at=START + 2 * HOUR))
    hear_named(report(instance_id=instance, user_id=ann, observed_at=START))
    assert connection.execute(text("SELECT user_id::text FROM workspace_instance")).scalars().all() == [ann]
    kept = connection.execute(text("SELECT external_id FROM directory_name ORDER BY 1")).scalars().all()
    assert kept == ["ann", "ci-1"]


@pytest.mark.parametrize("seen", [False, True])
def test_a_take_over_by_a_snapshots_row_counts_it_once(connection: Connection, *, seen: bool) -> None:
    system = System(connection, {})
    system.hear(report(workspace_class="large", user_id=USERS[0], observed_at=START + 2 * HOUR))
    observed_at = START + HOUR if seen else START
    row = report(workspace_class="small", user_id=USERS[1], observed_at=observed_at)
    merged = system.list_in_a_snapshot(row, taken_at=START + HOUR).merged
    assert (merged.inserted, merged.updated, merged.unchanged) == (0, 1, 0)


def test_a_batch_of_take_overs_has_as_many_statements_as_one(connection: Connection) -> None:
    counts = []
    for sessions in (range(1), range(1, 21)):
        ids = [str(make_id(number)) for number in sessions]
        system = System(connection, {})
        for name, observed_at in (("small", START + HOUR), ("large", START + 2 * HOUR)):
            system.hear(*(report(instance_id=each, workspace_class=name, observed_at=observed_at) for each in ids))
        statements: list[str] = []

        def note(_: object, __: object, statement: str, *___: object, into: list[str] = statements) -> None:
            into.append(statement)

        event.listen(connection, "before_cursor_execute", note)
        system.hear(*(report(instance_id=each, workspace_class="large", observed_at=START) for each in ids))
        event.remove(connection, "before_cursor_execute", note)
        counts.append(len(statements))
    assert counts[1] == counts[0]
