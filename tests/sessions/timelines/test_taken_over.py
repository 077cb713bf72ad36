"""An earlier report takes a session over: nothing of what waits gets lost, and everyone is answered what was done."""

from datetime import timedelta
from decimal import Decimal

from sqlalchemy import Connection, text

from tests.factories import DAY, HOUR, START
from tests.sessions.timelines.oracle import RUNNING, Session, Told, Value, Version
from tests.sessions.timelines.stories import FIRST_VERSION_AT, USERS, report, segment
from tests.sessions.timelines.system import NOW, System, assert_same
from tests.sessions.timelines.test_any_order import listed_prices
from usage_tasks.domain.timelines import SEGMENTS_MAX

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
