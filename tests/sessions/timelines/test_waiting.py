"""What waits in quarantine, and changes of sessions in files, are taken up as if they came in any other order."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text

from tests.factories import DAY, HOUR, LIMITS, START, SYSTEM
from tests.sessions.timelines.oracle import RUNNING, Session, Value, Version
from tests.sessions.timelines.stories import FIRST_VERSION_AT, INSTANCE, USERS, report, segment
from tests.sessions.timelines.system import NOW, System, assert_same
from tests.sessions.timelines.test_any_order import listed_prices
from usage_tasks.services.sessions.changes import OddRow
from usage_tasks.services.sessions.import_reports import Chunk, import_chunk
from usage_tasks.services.sessions.snapshot import Healed, Snapshot, report_running
from usage_tasks.wire.session_reports import parse_reports

GOLD = Value("gold", RUNNING)
GOLD_PRICE = Version(FIRST_VERSION_AT, Decimal(2))


def change(at: datetime, workspace_class: str) -> dict[str, str]:
    """A row of a file that says one change of the session."""
    return {"instance_id": INSTANCE, "from": at.isoformat(), "workspace_class": workspace_class}


def import_odd(connection: Connection, *rows: Any) -> None:
    """Import rows of a file that must be read one by one."""
    odd = {line: OddRow(row, UUID(INSTANCE)) for line, row in enumerate(rows, start=2)}
    import_chunk(connection, Chunk(plain={}, odd=odd), opened=frozenset(), limits=LIMITS, at=NOW, actor=SYSTEM)


def snap(connection: Connection, source: str, at: datetime, *rows: dict[str, Any]) -> Healed:
    """Take a snapshot of a source up."""
    reports, malformed = parse_reports(rows, at=at, namespace=uuid4, source=source)
    taken = Snapshot(source=source, taken_at=at, reports=reports, malformed=malformed, raw=rows, arrived_at=at)
    return report_running(connection, taken, limits=LIMITS, actor=SYSTEM)


def test_a_take_over_takes_up_what_could_not_be_read_when_it_came(connection: Connection) -> None:
    system = System(connection, {})
    far = START + 2 * DAY
    stop = report(workspace_class="large", observed_at=far, stopped_at=START + 3 * HOUR)
    first = report(workspace_class="large", observed_at=START)
    middle = report(workspace_class="small", observed_at=START + HOUR)
    system.hear(stop, at=START)  # more than a day ahead: kept, but not as a report of a session
    system.hear(middle)
    assert system.release().still_refused == 1
    system.hear(first)
    assert_same(system, Session([stop, first, middle], listed_prices()), [])


def test_a_release_takes_up_what_a_later_part_agrees_with_though_it_waited_for_a_price(connection: Connection) -> None:
    system = System(connection, {})
    stop = report(
        workspace_class="small",
        user_id=USERS[1],
        observed_at=START + 2 * HOUR,
        stopped_at=START + 2 * HOUR,
        segments=[segment(START + HOUR, "silver")],
    )
    row = report(workspace_class="small", user_id=USERS[1], observed_at=START) | {"state": "suspended"}
    system.hear(report(user_id=USERS[0], observed_at=START + HOUR))
    assert len(system.hear(stop).rejections) == 1
    assert len(system.list_in_a_snapshot(row, taken_at=START).rejections) == 1
    system.add_price(Value("silver", RUNNING), Version(FIRST_VERSION_AT, Decimal(2)))
    system.add_price(Value("small", "suspended"), Version(FIRST_VERSION_AT, Decimal(2)))
    released = system.release()
    assert system.quarantined() == [report(user_id=USERS[0], observed_at=START + HOUR)]
    assert (released.released, released.still_refused) == (2, 0)


@pytest.mark.holds("usage.waiting-repeats")
def test_a_row_that_several_snapshots_list_holds_from_the_first_of_them_on(connection: Connection) -> None:
    system = System(connection, {})
    system.hear(report(workspace_class="large", observed_at=START))
    row = report(workspace_class="gold")
    del row["observed_at"]
    for hour in (1, 2, 3):
        assert len(snap(connection, "eu", START + hour * HOUR, row).recorded.rejections) == 1
    system.add_price(GOLD, GOLD_PRICE)
    assert system.release().released == 1
    assert system.balances([START + 3 * HOUR]) == [60 * 50 + 120 * 200]


def test_a_change_that_waits_is_read_with_the_facts_of_its_session_not_of_what_waits_beside_it(
    connection: Connection,
) -> None:
    system = System(connection, {})
    system.hear(report(workspace_class="small", user_id=USERS[0], observed_at=START))
    system.hear(report(workspace_class="large", user_id=USERS[1], observed_at=START + HOUR))
    import_odd(connection, change(START + HOUR, "gold"))
    system.add_price(GOLD, GOLD_PRICE)
    assert system.release().released == 1
    assert system.balances([START + 2 * HOUR]) == [60 * 10 + 60 * 200]


@pytest.mark.holds("usage.timeline-import")
def test_a_change_holds_whatever_report_of_its_session_came_first(connection: Connection) -> None:
    system = System(connection, {})
    late = report(workspace_class="large", observed_at=START + HOUR)
    early = report(workspace_class="small", observed_at=START)
    system.hear(late)
    import_odd(connection, change(START + HOUR, "xlarge"))
    system.hear(early)
    assert system.balances([START + 2 * HOUR]) == [60 * 10 + 60 * 100]


def test_a_release_drops_no_segments_of_a_report_that_also_has_from(connection: Connection) -> None:
    system = System(connection, {})
    system.hear(report(workspace_class="small", observed_at=START))
    both = report(workspace_class="xlarge", observed_at=START + HOUR, segments=[segment(START + HOUR, "large")])
    both["from"] = (START + 2 * HOUR).isoformat()
    assert len(system.hear(both).rejections) == 1
    system.release()
    assert system.quarantined() == [both]


def test_a_session_that_comes_back_has_the_source_that_was_seen_last(connection: Connection) -> None:
    def end(*told: dict[str, Any]) -> tuple[Any, ...]:
        savepoint = connection.begin_nested()
        system = System(connection, {})
        for each in told:
            system.hear(each)
        snap(connection, "eu", START + 4 * HOUR)
        row = connection.execute(text("SELECT source, inferred_stopped_at FROM workspace_instance")).one()
        savepoint.rollback()
        return tuple(row)

    eu = report(workspace_class="small", observed_at=START + 2 * HOUR, source="eu")
    nowhere = report(workspace_class="small", observed_at=START + 3 * HOUR)
    us = report(workspace_class="small", observed_at=START + timedelta(hours=2, minutes=30), source="us")
    other = report(workspace_class="large", observed_at=START + HOUR)
    first = report(workspace_class="small", observed_at=START)
    assert end(eu, nowhere, other, first, us) == end(first, eu, nowhere, us, other)


@pytest.mark.holds("usage.waiting-repeats")
def test_a_report_that_was_sent_twice_is_as_early_as_the_first_time(connection: Connection) -> None:
    system = System(connection, {})
    gold = report(workspace_class="gold")
    del gold["observed_at"]
    small = report(workspace_class="small", observed_at=START + HOUR)
    for at in (START, START + 2 * HOUR):
        assert len(system.hear(gold, at=at).rejections) == 1
    system.hear(small)
    system.add_price(GOLD, GOLD_PRICE)
    assert system.release().released == 1
    seen = "SELECT workspace_class, first_observed_at, observed_at FROM workspace_instance"
    assert tuple(connection.execute(text(seen)).one()) == ("gold", START, START + 2 * HOUR)
    assert [each["workspace_class"] for each in system.quarantined()] == ["small"]


@pytest.mark.holds("usage.snapshot-present")
def test_a_row_of_a_snapshot_says_the_present_also_before_the_report_of_the_start(connection: Connection) -> None:
    # An hour at 0.1, then an hour at 0.5, as if the report of the start had come first: it was late in its queue.
    system = System(connection, {})
    row = report(workspace_class="large", observed_at=START + HOUR)
    assert snap(connection, "eu", START + HOUR, row).recorded.rejections == []
    merged = system.hear(report(workspace_class="small", observed_at=START)).merged
    assert (merged.inserted, merged.updated, merged.unchanged) == (0, 1, 0)
    assert system.balances([START + 2 * HOUR]) == [60 * 10 + 60 * 50]
    assert system.quarantined() == []


def present(hour: int, workspace_class: str, state: str = "running") -> tuple[str, int, dict[str, Any]]:
    """A row of a snapshot."""
    return "row", hour, report(workspace_class=workspace_class, observed_at=START + hour * HOUR) | {"state": state}


def said(hour: int, workspace_class: str, *changes: tuple[int, str]) -> tuple[str, int, dict[str, Any]]:
    """A report."""
    segments = [segment(START + begin * HOUR, name) for begin, name in changes]
    return "report", hour, report(workspace_class=workspace_class, observed_at=START + hour * HOUR, segments=segments)


@pytest.mark.holds("usage.snapshot-present")
@pytest.mark.parametrize(
    ("told", "cents"),
    [
        ([present(1, "large"), said(2, "small")], 60 * 10 + 180 * 50),
        ([present(1, "large"), present(2, "xlarge"), said(0, "small")], 60 * 10 + 60 * 50 + 120 * 100),
        ([present(2, "large"), present(1, "small")], 120 * 10 + 120 * 50),
        ([present(1, "large", "suspended"), said(3, "small")], 60 * 10 + 180 * 10),
        ([present(1, "large"), said(2, "small", (3, "xlarge"))], 60 * 10 + 120 * 50 + 60 * 100),
        ([present(1, "large"), said(2, "small"), said(0, "medium")], 60 * 20 + 180 * 50),
        ([said(1, "small"), present(2, "large"), said(0, "medium")], 120 * 20 + 120 * 50),
    ],
)
def test_rows_of_snapshots_and_reports_end_in_the_same_in_any_order(
    connection: Connection, told: Sequence[tuple[str, int, dict[str, Any]]], cents: int
) -> None:
    for order in permutations(told):
        savepoint = connection.begin_nested()
        system = System(connection, {"large:suspended": [Version(FIRST_VERSION_AT, Decimal("0.1"))]})
        for kind, hour, each in order:
            if kind == "row":
                assert snap(connection, f"cluster {hour}", START + hour * HOUR, each).recorded.rejections == []
            else:
                system.hear(each)
        assert system.balances([START + 4 * HOUR]) == [cents], order
        savepoint.rollback()


def test_what_waits_has_the_reason_that_holds_after_a_take_over(connection: Connection) -> None:
    system = System(connection, {})
    for hour, name in ((1, "small"), (2, "medium"), (0, "large")):
        system.hear(report(workspace_class=name, observed_at=START + hour * HOUR))
    reasons = connection.execute(text("SELECT substr(reason, 1, 15) FROM quarantined_report")).scalars().all()
    assert reasons == ["must be 'large'", "must be 'large'"]
