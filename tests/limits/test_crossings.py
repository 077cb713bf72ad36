"""Announcements against the domain's levels, and each only once."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from threading import Barrier
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, exc, text

from tests.examples import examples
from tests.factories import DAY, HOUR, START, SYSTEM, add_version, make_id, record, session_report, team, used
from tests.outbox import list_messages
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.ledger import EntryKind
from usage_tasks.domain.limits import HardLimitGrace, LimitPolicy, reached_levels
from usage_tasks.domain.rating import PER_SECOND, ChargeRule, PriceVersion
from usage_tasks.storage.engine import Database, rehearsal
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.ledger.entries import Entry, append_entries
from usage_tasks.storage.ledger.posting import post_stopped
from usage_tasks.storage.limits.crossings import announce_crossings, find_thresholds, put_thresholds

NOW = START + DAY
PERCENTS = st.lists(st.sampled_from([1, 50, 80, 99, 100, 101, 120, 1000]), max_size=4, unique=True)
LIMITS = st.one_of(st.integers(0, 30), st.sampled_from([10**12, 0, 100]))
OPEN = text(
    "INSERT INTO cost_center (attribution_id, version, billing_strategy, spending_limit, cycle_anchor_at, "
    "cycle_number, cycle_started_at, next_billing_at, actor) "
    "VALUES (:account, 1, :strategy, :limit, :start, 0, :start, :end, 'service:tests')"
)

INSTANTS = st.one_of(
    st.integers(-12, 30).map(lambda hours: START + hours * HOUR),
    st.timedeltas(timedelta(0), DAY).map(lambda offset: START + offset),
    st.integers(-40, 3).map(lambda halves: NOW + timedelta(milliseconds=500 * halves)),
)
RUNNING = st.tuples(st.sampled_from(["small", "large"]), INSTANTS, st.none() | INSTANTS)
VERSIONS = st.builds(
    PriceVersion,
    effective_from=st.just(START - DAY) | INSTANTS,
    credits_per_minute=st.decimals(0, 3, places=10),
    rule=st.builds(
        ChargeRule,
        minimum_cents=st.sampled_from([0, 1, 700]).map(CreditCents),
        rounding_seconds=st.sampled_from([1, 60, 86_400]),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An account: its limit in credits, its balance, thresholds of its own if any."""

    limit: int
    balance: int
    own: Sequence[int] | None
    strategy: str


@st.composite
def cases(draw: st.DrawFn) -> Case:
    limit = draw(LIMITS)
    percent = draw(st.sampled_from([0, 1, 50, 80, 99, 100, 101, 110, 120, 1000]))
    near = limit * percent + draw(st.sampled_from([-1, 0, 1, 5_000]))
    strategy = draw(st.sampled_from(["stripe", "other"]))
    return Case(limit=limit, balance=near, own=draw(st.none() | PERCENTS), strategy=strategy)


def open_account(
    connection: Connection, account: AttributionId, *, limit: int, balance: int, strategy: str = "other"
) -> None:
    fields = {"account": account, "limit": limit, "strategy": strategy, "start": START, "end": add_months(START, 1)}
    connection.execute(OPEN, fields)
    add(connection, account, balance, key="opening")


def add(connection: Connection, account: AttributionId, cents: int, *, key: str) -> None:
    entry = Entry(
        attribution_id=account,
        key=key,
        kind=EntryKind.INVOICE,
        credit_cents=cents,
        effective_at=START,
        description="whatever moves a balance",
    )
    assert append_entries(connection, [entry]) == 1


def told(connection: Connection) -> list[Any]:
    return list(list_messages(connection))


def announce(connection: Connection, policy: LimitPolicy | None = None) -> int:
    return sum(announce_crossings(connection, at=NOW, policy=policy or LimitPolicy()).values())


@pytest.mark.holds("limits.thresholds")
@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    examples=st.lists(cases(), min_size=1, max_size=12),
    policy=st.builds(
        LimitPolicy,
        thresholds=PERCENTS.map(tuple),
        grace=st.builds(HardLimitGrace, credits=st.sampled_from([0, 1, 50]), percent=st.sampled_from([0, 1, 20])),
    ),
)
def test_the_database_announces_the_levels_that_the_domain_says_are_reached(
    connection: Connection, examples: list[Case], policy: LimitPolicy
) -> None:
    savepoint = connection.begin_nested()
    expected = []
    for number, each in enumerate(examples):
        account = team(number)
        open_account(connection, account, limit=each.limit, balance=each.balance, strategy=each.strategy)
        if each.own is not None:
            put_thresholds(connection, account, each.own, actor=SYSTEM)
        thresholds = policy.thresholds if each.own is None else each.own
        expected += [
            (account, f"server.usage_{level.crossing}_reached", level.percent, level.level_cents)
            for level in reached_levels(CreditCents(each.balance), each.limit, thresholds, policy.grace)
        ]
    assert announce(connection, policy) == len(expected)
    found = [
        (row.payload["attribution_id"], row.task, row.payload["percent"], row.payload["level_cents"])
        for row in told(connection)
    ]
    # Account by account, and for each in the domain's order.
    assert found == sorted(expected, key=lambda each: each[0])
    assert announce(connection, policy) == 0
    savepoint.rollback()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    accounts=st.lists(st.lists(RUNNING, min_size=1, max_size=4), min_size=1, max_size=4),
    versions=st.lists(VERSIONS, max_size=3, unique_by=lambda version: version.effective_from),
    short_by=st.sampled_from([0, 0, 1]),
    posts_at=st.none() | INSTANTS,
)
def test_whoever_has_reached_a_level_is_told_to_the_cent_however_the_sessions_are_priced(
    connection: Connection,
    accounts: list[list[tuple[str, datetime, datetime | None]]],
    versions: list[PriceVersion],
    short_by: int,
    posts_at: datetime | None,
) -> None:
    with rehearsal(connection):
        for version in versions:
            add_version(connection, "small", version)
        for number, sessions in enumerate(accounts):
            for other, (workspace_class, started_at, stopped_at) in enumerate(sessions):
                facts = {"instance_id": make_id((number, other)), "attribution_id": team(number)}
                when = {"started_at": started_at, "stopped_at": stopped_at}
                record(connection, session_report(workspace_class=workspace_class, **facts, **when))
        if posts_at is not None:
            post_stopped(connection, at=posts_at, limit=100)
        expected = {}
        for number in range(len(accounts)):
            balance = get_balance(connection, team(number), at=NOW)
            limit = balance + short_by
            connection.execute(
                text("UPDATE cost_center SET spending_limit = :limit WHERE attribution_id = :account"),
                {"limit": limit, "account": team(number)},
            )
            expected[team(number)] = len(reached_levels(balance, limit, (1,), HardLimitGrace()))
        assert announce(connection, LimitPolicy(thresholds=(1,))) == sum(expected.values())
        found = Counter(row.payload["attribution_id"] for row in told(connection))
        assert found == Counter(expected)


@pytest.mark.parametrize(
    ("price", "rule", "duration", "cents"),
    [
        ("0.1", PER_SECOND, timedelta(seconds=3), 1),  # half a cent, rounded up
        ("0.0001", PER_SECOND, timedelta(minutes=50), 1),
        ("0.6", PER_SECOND, timedelta(seconds=1.5), 2),  # half a second, rounded up
        ("0.1", replace(PER_SECOND, rounding_seconds=86_400), timedelta(minutes=1), 14_400),
        ("0", replace(PER_SECOND, minimum_cents=CreditCents(700)), timedelta(seconds=1), 700),
    ],
)
def test_a_level_that_is_reached_to_the_cent_is_announced(
    connection: Connection, price: str, rule: ChargeRule, duration: timedelta, cents: int
) -> None:
    version = PriceVersion(effective_from=START, credits_per_minute=Decimal(price), rule=rule)
    add_version(connection, "odd", version)
    for name, limit in (("at", cents), ("below", cents + 1)):
        report = session_report(attribution_id=team(name), workspace_class="odd", started_at=NOW - duration)
        record(connection, report)
        connection.execute(
            text("UPDATE cost_center SET spending_limit = :limit WHERE attribution_id = :account"),
            {"limit": limit, "account": team(name)},
        )
    assert announce(connection, LimitPolicy(thresholds=(1,))) == 1
    assert told(connection)[0].payload["attribution_id"] == team("at")


def test_more_time_than_an_interval_holds_hides_nothing(connection: Connection) -> None:
    record(connection, session_report())
    since_1970 = """
        INSERT INTO open_session (attribution_id, instance_id, workspace_class, started_at)
        SELECT :account, md5(n::text)::uuid, 'small', '1970-01-01Z' FROM generate_series(1, 110000) AS n
    """
    connection.execute(text(since_1970), {"account": team()})
    assert announce(connection) == 4


def test_an_entry_that_takes_effect_later_hides_nothing(connection: Connection) -> None:
    open_account(connection, team(), limit=10, balance=1_000)
    later = Entry(
        attribution_id=team(),
        key="invoice:later",
        kind=EntryKind.INVOICE,
        credit_cents=-1_000,
        effective_at=NOW + DAY,
        description="an invoice to come",
    )
    append_entries(connection, [later])
    assert announce(connection) == 4


def test_an_announcement_says_what_a_platform_needs(connection: Connection) -> None:
    open_account(connection, team(), limit=10, balance=810)
    announce(connection)
    assert [row.task for row in told(connection)] == ["server.usage_threshold_reached"] * 2
    assert told(connection)[1].payload == {
        "attribution_id": team(),
        "percent": 80,
        "balance_cents": 810,
        "spending_limit": 10,
        "level_cents": 800,
        "cycle_started_at": "2026-01-01T00:00:00+00:00",
        "at": "2026-01-02T00:00:00+00:00",
    }


@pytest.mark.parametrize("thresholds", [(120,), (), (100,), (1000, 101)])
def test_a_limit_is_announced_whatever_the_thresholds_name(connection: Connection, thresholds: tuple[int, ...]) -> None:
    both = ["server.usage_limit_reached", "server.usage_hard_limit_reached"]
    open_account(connection, team(), limit=10, balance=1_000)
    announce(connection, LimitPolicy(thresholds=thresholds))
    assert [row.task for row in told(connection)] == both
    connection.execute(text("DELETE FROM outbox"))
    connection.execute(text("DELETE FROM cost_center"))
    put_thresholds(connection, team("own"), thresholds, actor=SYSTEM)
    open_account(connection, team("own"), limit=10, balance=1_000)
    announce(connection)
    assert [row.task for row in told(connection)] == both


@pytest.mark.holds("limits.announced-again")
def test_a_balance_that_fell_and_rises_again_in_one_cycle_is_not_announced_again(connection: Connection) -> None:
    open_account(connection, team(), limit=10, balance=1_000)
    assert announce(connection) == 4
    add(connection, team(), -900, key="credit")
    assert announce(connection) == 0
    add(connection, team(), 900, key="used again")
    assert announce(connection) == 0


@pytest.mark.holds("limits.thresholds")
def test_what_is_used_in_one_go_is_announced_from_below_and_the_limit_when_it_comes(connection: Connection) -> None:
    open_account(connection, team(), limit=100, balance=8_000)
    assert announce(connection) == 2
    assert [(row.task, row.payload["percent"]) for row in told(connection)] == [
        ("server.usage_threshold_reached", 50),
        ("server.usage_threshold_reached", 80),
    ]
    add(connection, team(), 2_000, key="more")
    assert announce(connection) == 2
    assert [row.task for row in told(connection)[2:]] == [
        "server.usage_limit_reached",
        "server.usage_hard_limit_reached",  # without a grace it is the limit
    ]


@pytest.mark.holds("limits.settled-first")
@pytest.mark.parametrize("strategy", ["stripe", "other"])
def test_a_limit_is_not_announced_for_usage_that_a_reset_or_an_invoice_which_is_not_booked_yet_will_settle(
    connection: Connection, strategy: str
) -> None:
    open_account(connection, team(), limit=10, balance=1_000, strategy=strategy)
    ended_at = add_months(START, 1)
    assert announce_crossings(connection, at=ended_at, policy=LimitPolicy()) == {}
    just_before = ended_at - timedelta(microseconds=1)
    assert sum(announce_crossings(connection, at=just_before, policy=LimitPolicy()).values()) == 4


def test_announcements_that_were_sent_and_removed_do_not_come_again(connection: Connection) -> None:
    open_account(connection, team(), limit=10, balance=1_000)
    assert announce(connection) == 4
    connection.execute(text("DELETE FROM outbox"))
    assert announce(connection) == 0
    assert told(connection) == []


def test_two_cycles_that_begin_within_one_second_are_two(connection: Connection) -> None:
    open_account(connection, team(), limit=0, balance=0)
    assert announce(connection) == 2
    connection.execute(text("UPDATE cost_center SET cycle_started_at = cycle_started_at + interval '1 ms'"))
    assert announce(connection) == 2
    assert len(told(connection)) == 4


def test_a_hard_limit_that_moves_with_its_grace_is_announced_where_it_stands_now(connection: Connection) -> None:
    open_account(connection, team(), limit=10, balance=1_100)
    assert announce(connection, LimitPolicy(thresholds=(), grace=HardLimitGrace(percent=10))) == 2
    assert announce(connection, LimitPolicy(thresholds=(), grace=HardLimitGrace(credits=5))) == 0
    add(connection, team(), 400, key="more")
    assert announce(connection, LimitPolicy(thresholds=(), grace=HardLimitGrace(credits=5))) == 1


@pytest.mark.holds("limits.announced-once")
def test_ticks_at_once_announce_each_crossing_once(database: Database) -> None:
    accounts, workers = 40, 4
    with database.transaction() as connection:
        for number in range(accounts):
            used(connection, team(number), 50_000, at=NOW)
    ready = Barrier(workers)

    def tick(_: int) -> int:
        ready.wait()
        with database.transaction() as connection:
            return announce(connection)

    with ThreadPoolExecutor(workers) as pool:
        assert sum(pool.map(tick, range(workers))) == 4 * accounts
    with database.transaction() as connection:
        assert len(told(connection)) == 4 * accounts


@pytest.mark.holds("limits.announced-once")
def test_a_tick_that_fails_announces_nothing_and_the_next_does(database: Database) -> None:
    with database.transaction() as connection:
        open_account(connection, team(), limit=10, balance=500)
    with database.transaction() as connection:
        assert announce(connection) == 1
        connection.rollback()
    with database.transaction() as connection:
        assert told(connection) == []
        assert announce(connection) == 1


@pytest.mark.parametrize("thresholds", [[0], [1001], list(range(1, 12)), [None]])
def test_the_table_refuses_thresholds_that_are_not_allowed(connection: Connection, thresholds: list[Any]) -> None:
    with pytest.raises(exc.IntegrityError), connection.begin_nested():
        connection.execute(
            text("INSERT INTO limit_thresholds (attribution_id, thresholds, actor) VALUES ('team:x', :t, 'x')"),
            {"t": thresholds},
        )


def test_thresholds_are_stored_in_rising_order(connection: Connection) -> None:
    assert find_thresholds(connection, team()) is None
    put_thresholds(connection, team(), [90, 10], actor=SYSTEM)
    assert find_thresholds(connection, team()) == (10, 90)
