"""Zombies: the causes of a cap, the causes that lift it, and that balances follow at any instant."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from tests.benchmarks.population import add_sessions
from tests.examples import examples
from tests.factories import (
    DAY,
    HOUR,
    START,
    SYSTEM,
    account_of,
    make_id,
    record,
    see,
    session_report,
    stopped_report,
    team,
)
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.services.ledger.post_usage import cap_batch, post_batch
from usage_tasks.services.ledger.read_usage import list_usage
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.services.sessions.release_zombie import release_session
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.sessions import zombies
from usage_tasks.storage.sessions.zombies import Caps, cap_zombies, list_zombies

MINUTE = timedelta(minutes=1)
GRACE = 10 * MINUTE
LIFETIME = 36 * HOUR
NOTHING = Caps(capped=0, moved=0, lifted=0)
CAPPED = Caps(capped=1, moved=0, lifted=0)


def tick(
    connection: Connection,
    at: datetime,
    *,
    grace: timedelta | None = GRACE,
    lifetime: timedelta | None = LIFETIME,
) -> Caps:
    done = cap_batch(connection, at=at, heartbeat_grace=grace, lifetime_max=lifetime)
    post_batch(connection, at=at)
    return done


def running(**fields: Any) -> SessionReport:
    return session_report(workspace_class="xlarge", instance_id=make_id("zombie"), **fields)


def caps(connection: Connection) -> list[tuple[str, datetime]]:
    return [(zombie.cap_reason.value, zombie.capped_at) for zombie in list_zombies(connection, limit=10)]


def balance(connection: Connection, at: datetime) -> int:
    return get_balance(connection, team(), at=at)


@pytest.mark.holds("usage.zombie")
def test_a_session_without_a_sign_of_life_accrues_up_to_the_grace_and_no_further(connection: Connection) -> None:
    record(connection, running(observed_at=START + HOUR))
    assert tick(connection, START + HOUR + GRACE) == NOTHING
    assert tick(connection, START + HOUR + GRACE + MINUTE) == CAPPED
    assert caps(connection) == [("heartbeat", START + HOUR + GRACE)]
    assert [balance(connection, START + minutes * MINUTE) for minutes in (60, 70, 71, 9000)] == [6000, 7000, 7000, 7000]


def test_a_capped_session_is_a_draft_up_to_its_cap(connection: Connection) -> None:
    record(connection, running())
    tick(connection, START + DAY)
    page = list_usage(connection, account_of(team()), start=START, end=START + DAY, at=START + 2 * DAY)
    assert [(each.draft, each.credit_cents, each.effective_at) for each in page.entries] == [
        (True, 1000, START + GRACE)
    ]


@pytest.mark.holds("usage.zombie")
def test_a_session_over_its_lifetime_accrues_up_to_it(connection: Connection) -> None:
    record(connection, running(observed_at=START + LIFETIME + HOUR))
    assert tick(connection, START + LIFETIME) == NOTHING
    assert tick(connection, START + LIFETIME + MINUTE) == CAPPED
    assert caps(connection) == [("lifetime", START + LIFETIME)]
    assert balance(connection, START + 9 * DAY) == 36 * 6000


def test_the_earlier_of_two_caps_holds(connection: Connection) -> None:
    record(connection, running(observed_at=START + LIFETIME - HOUR))
    tick(connection, START + 9 * DAY)
    assert caps(connection) == [("heartbeat", START + LIFETIME - HOUR + GRACE)]


def test_without_settings_nothing_is_capped(connection: Connection) -> None:
    record(connection, running())
    assert tick(connection, START + 999 * DAY, grace=None, lifetime=None) == NOTHING


def test_a_tick_that_changes_nothing_writes_nothing(connection: Connection) -> None:
    record(connection, running(), session_report(observed_at=START + DAY), stopped_report())
    assert tick(connection, START + DAY) == CAPPED
    before = connection.execute(text("SELECT xmin, ctid, * FROM workspace_instance ORDER BY instance_id")).all()
    assert tick(connection, START + DAY + MINUTE) == NOTHING
    assert before == connection.execute(text("SELECT xmin, ctid, * FROM workspace_instance ORDER BY instance_id")).all()


def test_a_batch_caps_no_more_than_its_limit(connection: Connection) -> None:
    record(connection, *(session_report() for _ in range(5)))
    done = [cap_zombies(connection, at=START + DAY, grace=GRACE, lifetime=None, limit=2).capped for _ in range(4)]
    assert done == [2, 2, 1, 0]


@pytest.mark.holds("usage.zombie")
@pytest.mark.parametrize("by", ["report", "snapshot", "refused row"])
def test_a_sign_of_life_lifts_the_heartbeats_cap_at_once(connection: Connection, by: str) -> None:
    record(connection, running(source="eu"))
    tick(connection, START + HOUR)
    if by == "report":
        record(connection, running(observed_at=START + 2 * HOUR))
    elif by == "snapshot":
        see(connection, "eu", START + 2 * HOUR, running())
    else:
        see(connection, "eu", START + 2 * HOUR, running(attribution_id=team("x")))
    assert caps(connection) == []
    assert balance(connection, START + 2 * HOUR) == 12_000
    tick(connection, START + 3 * HOUR)
    assert caps(connection) == [("heartbeat", START + 2 * HOUR + GRACE)]


def test_an_old_sign_of_life_lifts_nothing(connection: Connection) -> None:
    record(connection, running(observed_at=START + HOUR))
    tick(connection, START + DAY)
    record(connection, running(observed_at=START + 30 * MINUTE))
    assert caps(connection) == [("heartbeat", START + HOUR + GRACE)]


@pytest.mark.holds("usage.zombie")
def test_a_sign_of_life_leaves_the_lifetimes_cap(connection: Connection) -> None:
    record(connection, running(observed_at=START + 2 * DAY))
    tick(connection, START + 2 * DAY)
    record(connection, running(observed_at=START + 3 * DAY))
    assert caps(connection) == [("lifetime", START + LIFETIME)]


@pytest.mark.holds("usage.zombie")
@pytest.mark.parametrize("end", ["stopping_at", "stopped_at"])
def test_a_reported_end_lifts_the_cap_and_is_billed_in_full(connection: Connection, end: str) -> None:
    record(connection, running())
    tick(connection, START + 3 * DAY)
    record(connection, running(observed_at=START + 4 * DAY, **{end: START + 3 * DAY}))
    assert caps(connection) == []
    assert balance(connection, START + 4 * DAY) == 72 * 6000
    assert tick(connection, START + 4 * DAY) == NOTHING
    assert verify(connection, at=START + 4 * DAY).clean


def test_an_inferred_end_does_not_reach_beyond_a_lifetime(connection: Connection) -> None:
    record(connection, running(source="eu", observed_at=START + 2 * DAY))
    see(connection, "eu", START + 3 * DAY)
    assert tick(connection, START + 3 * DAY) == CAPPED
    assert connection.execute(text("SELECT credit_cents FROM ledger_entry")).scalars().all() == [36 * 6000]
    assert tick(connection, START + 4 * DAY) == NOTHING
    release_session(connection, make_id("zombie"), at=START + 4 * DAY, actor=SYSTEM)
    assert tick(connection, START + 4 * DAY) == NOTHING
    assert connection.execute(text("SELECT sum(credit_cents) FROM ledger_entry")).scalar_one() == 48 * 6000
    assert verify(connection, at=START + 4 * DAY).clean


def test_a_session_that_a_snapshot_ended_is_no_zombie(connection: Connection) -> None:
    record(connection, running(source="eu"))
    assert tick(connection, START + HOUR) == CAPPED
    see(connection, "eu", START + HOUR)
    assert tick(connection, START + HOUR) == Caps(capped=0, moved=0, lifted=1)
    assert connection.execute(text("SELECT credit_cents FROM ledger_entry")).scalars().all() == [0]


def test_a_changed_bound_moves_caps_and_switched_off_lifts_them(connection: Connection) -> None:
    record(connection, running(observed_at=START + HOUR))
    tick(connection, START + DAY)
    assert tick(connection, START + DAY, grace=2 * GRACE) == Caps(capped=0, moved=1, lifted=0)
    assert caps(connection) == [("heartbeat", START + HOUR + 2 * GRACE)]
    assert tick(connection, START + DAY, grace=None) == Caps(capped=0, moved=0, lifted=1)
    assert caps(connection) == []


def test_a_tick_that_asks_about_the_past_lifts_nothing(connection: Connection) -> None:
    record(connection, running())
    tick(connection, START + DAY)
    assert tick(connection, START + MINUTE) == NOTHING


@pytest.mark.holds("usage.zombie")
def test_a_released_session_accrues_again_and_is_not_capped_for_that_reason(connection: Connection) -> None:
    record(connection, running())
    tick(connection, START + HOUR)
    zombie = release_session(connection, make_id("zombie"), at=START + HOUR, actor=SYSTEM)
    assert zombie is not None
    assert (zombie.cap_reason, zombie.capped_at) == ("heartbeat", START + GRACE)
    assert balance(connection, START + 2 * HOUR) == 12_000
    assert tick(connection, START + DAY) == NOTHING
    assert tick(connection, START + 2 * DAY) == CAPPED
    assert caps(connection) == [("lifetime", START + LIFETIME)]
    release_session(connection, make_id("zombie"), at=START + 2 * DAY, actor=SYSTEM)
    assert tick(connection, START + 9 * DAY) == NOTHING
    assert balance(connection, START + 9 * DAY) == 9 * 24 * 6000


def test_a_release_is_audited_once_and_twice_is_once(connection: Connection) -> None:
    record(connection, running())
    tick(connection, START + HOUR)
    assert release_session(connection, make_id("zombie"), at=START + HOUR, actor=SYSTEM) is not None
    assert release_session(connection, make_id("zombie"), at=START + HOUR, actor=SYSTEM) is None
    told = connection.execute(
        text("SELECT actor, attribution_id, details FROM audit WHERE action = 'session.released'")
    )
    details = {
        "instance_id": str(make_id("zombie")),
        "reason": "heartbeat",
        "capped_at": (START + GRACE).isoformat(),
    }
    assert [tuple(row) for row in told] == [(SYSTEM, team(), details)]


def test_a_session_that_nobody_reported_cannot_be_released(connection: Connection) -> None:
    with pytest.raises(InvalidInputError, match="`instance_id`: no such session"):
        release_session(connection, make_id("nobody"), at=START, actor=SYSTEM)


def test_a_sign_of_life_that_comes_while_a_tick_works_is_not_capped(database: Database) -> None:
    with database.transaction() as connection:
        record(connection, running())
    with database.transaction() as reporting:
        record(reporting, running(observed_at=START + DAY))
        with database.transaction() as ticking:
            assert cap_batch(ticking, at=START + DAY, heartbeat_grace=GRACE, lifetime_max=None) == NOTHING
    with database.transaction() as connection:
        assert cap_batch(connection, at=START + DAY, heartbeat_grace=GRACE, lifetime_max=None) == NOTHING


def test_a_tick_reads_what_is_due_and_not_the_history(connection: Connection) -> None:
    add_sessions(connection, "past", count=5000, accounts=10, started_at=START, stopped=True)
    post_batch(connection, at=START + 9 * DAY)
    connection.execute(text("ANALYZE workspace_instance, open_session"))
    bounds = {"at": START + DAY, "grace": GRACE, "lifetime": LIFETIME, "limit": 10}
    plan = "\n".join(connection.execute(text("EXPLAIN " + zombies._CAP), bounds).scalars())
    for index in ("workspace_instance_silent_idx", "workspace_instance_capped_idx"):
        assert index in plan
    assert "on open_session o" in plan
    assert "Seq Scan on workspace_instance" not in plan


SIGNS = st.lists(st.integers(0, 12).map(lambda quarters: START + quarters * 15 * MINUTE), min_size=1, max_size=4)


@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), signs=SIGNS, asked=st.integers(0, 300))
def test_signs_of_life_and_ticks_in_any_order_end_in_the_same_balances(
    connection: Connection, data: st.DataObject, signs: list[datetime], asked: int
) -> None:
    savepoint = connection.begin_nested()
    steps = data.draw(st.permutations([*signs, *data.draw(st.lists(st.just(None), max_size=4))]))
    for step in steps:
        if step is None:
            tick(connection, START + DAY, grace=GRACE, lifetime=2 * HOUR)
        else:
            record(connection, running(observed_at=step))
    tick(connection, START + DAY, grace=GRACE, lifetime=2 * HOUR)
    bound = min(max(signs) + GRACE, START + 2 * HOUR)
    at = START + asked * MINUTE
    assert balance(connection, at) == 100 * (min(at, bound) - START) // MINUTE
    assert [zombie[1] for zombie in caps(connection)] == [bound]
    savepoint.rollback()
