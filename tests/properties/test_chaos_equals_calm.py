"""Any interleaving, repetition and crash ends in the balances of one calm run, and verify is clean at each step.

A scenario is a set of sessions on one account, with corrections, price changes and ends of billing cycles in between.
The calm run takes each report once, in order, and ticks once at an edge. The other run takes the reports of each
stretch of time in any order, some of them repeatedly, ticks and resets at random, and crashes between statements.
Reports before an edge are taken before it: usage that is reported later counts later, by rule.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event

from tests.examples import examples
from tests.factories import DAY, HOUR, LIMITS, START, SYSTEM, make_id, session_report, team
from usage_tasks.domain.accounts import parse_attribution
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.services.ledger.cost_center import get_cost_center
from usage_tasks.services.ledger.post_usage import announce_limits, post_batch
from usage_tasks.services.ledger.reset import reset_account
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.services.sessions.record import record_reports
from usage_tasks.storage.engine import Database
from usage_tasks.storage.pricing.prices import publish_prices
from usage_tasks.storage.rows import fetch

MINUTES_MAX = 75 * 24 * 60
_names = itertools.count(1)


@dataclass(frozen=True)
class Told:
    """One report, in minutes since the start: when the session began and ended, and when this was seen."""

    session: int
    started: int
    stopped: int | None
    seen: int
    large: bool


class CrashError(Exception):
    """The process ended between two statements."""


@st.composite
def scenarios(draw: st.DrawFn) -> tuple[list[Told], list[tuple[int, Decimal]]]:
    """Reports of up to five sessions, and price changes, over two and a half cycles."""
    told = []
    for session in range(draw(st.integers(1, 5))):
        started = draw(st.integers(0, MINUTES_MAX - 10))
        stopped = draw(st.integers(started, MINUTES_MAX - 5))
        large = draw(st.booleans())
        told.append(Told(session, started, None, started, large))
        told.append(Told(session, started, stopped, stopped, large))
        if draw(st.booleans()):
            seen = draw(st.integers(stopped, MINUTES_MAX))
            told.append(Told(session, started, draw(st.integers(started, stopped)), seen, draw(st.booleans())))
    prices = st.tuples(st.integers(1, MINUTES_MAX), st.decimals(0, 3, places=4))
    return told, sorted(draw(st.lists(prices, max_size=3, unique_by=lambda each: each[0])))


@dataclass
class World:
    """One run of a scenario: an account and two classes of its own, in a database that all share."""

    database: Database
    name: str
    crash_after: Iterator[int | None]

    @property
    def account(self) -> str:
        return team(self.name)

    def step(self, work: Callable[[Connection], object]) -> None:
        """Do the work in a transaction; if it crashes in the middle, do it again."""
        try:
            with crashing(next(self.crash_after)), self.database.transaction() as connection:
                work(connection)
        except CrashError:
            with self.database.transaction() as connection:
                work(connection)

    def open(self) -> None:
        with self.database.transaction() as connection:
            publish_prices(connection, self.prices(Decimal("0.1")), at=START, actor=SYSTEM)
            get_cost_center(connection, parse_attribution(self.account), limits=LIMITS, at=START, actor=SYSTEM)

    def prices(self, price: Decimal) -> dict[str, Decimal]:
        return {f"small {self.name}": price, f"large {self.name}": price * 3}

    def hear(self, reports: list[Told]) -> None:
        batch = [replace(self.report(each), index=index) for index, each in enumerate(reports)]
        self.step(
            lambda connection: record_reports(
                connection, batch, [], raw=[{}] * len(batch), limits=LIMITS, at=START, actor=SYSTEM
            )
        )

    def report(self, told: Told) -> SessionReport:
        return session_report(
            instance_id=make_id(f"{self.name} {told.session}"),
            attribution_id=self.account,
            workspace_class=f"{'large' if told.large else 'small'} {self.name}",
            started_at=minute(told.started),
            stopped_at=None if told.stopped is None else minute(told.stopped),
            observed_at=minute(told.seen),
        )

    def tick(self, at: datetime) -> None:
        self.step(lambda connection: post_batch(connection, at=at))
        self.step(lambda connection: announce_limits(connection, at=at))

    def reset(self, at: datetime) -> None:
        account = parse_attribution(self.account).attribution_id
        self.step(lambda connection: reset_account(connection, account, at=at, actor=SYSTEM))

    def change_prices(self, at: datetime, price: Decimal) -> None:
        self.step(lambda connection: publish_prices(connection, self.prices(price), at=at, actor=SYSTEM))

    def outcome(self, at: datetime) -> list[Any]:
        """The account's balance row and its announcements; verify must be clean."""
        with self.database.transaction() as connection:
            verdict = verify(connection, at=at)
            assert verdict.clean, verdict.describe()
            balance = fetch(
                connection,
                "SELECT used_cents, invoiced_cents, covered_cents, forgiven_cents, carried_cents "
                "FROM account_balance WHERE attribution_id = :account",
                account=self.account,
            )
            cycle = fetch(
                connection,
                "SELECT next_billing_at FROM cost_center WHERE attribution_id = :account AND superseded_at IS NULL",
                account=self.account,
            )
        return [tuple(row) for row in (*balance, *cycle)]


def minute(number: int) -> datetime:
    return START + timedelta(minutes=number)


@contextmanager
def crashing(after: int | None) -> Iterator[None]:
    """End the process, as the database sees it, before the statement of this number (0: the first)."""
    if after is None:
        yield
        return
    left = itertools.count(after, -1)

    def count(*_: object) -> None:
        if next(left) == 0:
            raise CrashError

    event.listen(Engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", count)


def stretches(
    told: list[Told], prices: list[tuple[int, Decimal]]
) -> Iterator[tuple[datetime, list[Told], Decimal | None]]:
    """Cut time at each end of a cycle and each change of price: the edge, the reports until then, the new price."""
    changes = {minute(at): price for at, price in prices}
    ends = {START + 31 * DAY, START + 59 * DAY, minute(MINUTES_MAX)}
    before = START - HOUR
    for edge in sorted({*changes, *ends}):
        yield edge, [each for each in told if before < minute(each.seen) <= edge], changes.get(edge)
        before = edge


def calm(world: World, told: list[Told], prices: list[tuple[int, Decimal]]) -> list[Any]:
    world.open()
    for edge, seen, price in stretches(told, prices):
        for each in sorted(seen, key=lambda each: (each.seen, each.stopped is not None)):
            world.hear([each])
        world.tick(edge)
        world.reset(edge)
        if price is not None:
            world.change_prices(edge, price)
    return world.outcome(minute(MINUTES_MAX))


def chaotic(world: World, told: list[Told], prices: list[tuple[int, Decimal]], data: st.DataObject) -> list[Any]:
    world.open()
    heard: list[Told] = []
    for edge, seen, price in stretches(told, prices):
        again = data.draw(st.lists(st.sampled_from(heard + seen), max_size=4)) if heard + seen else []
        order = data.draw(st.permutations(seen + again))
        for each in order:
            if data.draw(st.booleans()):
                world.tick(data.draw(st.sampled_from([START, edge - HOUR, edge])))
            world.hear(data.draw(st.sampled_from([[each], [each, each]])))
        heard += seen
        early = data.draw(st.booleans())
        if price is not None and early:
            world.change_prices(edge, price)
        for _ in range(data.draw(st.integers(1, 2))):
            world.tick(edge)
            world.reset(edge)
        if price is not None and not early:
            world.change_prices(edge, price)
        world.outcome(edge)
    return world.outcome(minute(MINUTES_MAX))


@pytest.mark.timeout(300)
@settings(
    max_examples=examples(20),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(scenario=scenarios(), data=st.data())
def test_chaos_ends_as_calm(
    database: Database, scenario: tuple[list[Told], list[tuple[int, Decimal]]], data: st.DataObject
) -> None:
    told, prices = scenario
    name = f"run {next(_names)}"
    crashes = data.draw(st.lists(st.one_of(st.none(), st.integers(0, 6)), max_size=40))
    expected = calm(World(database, f"{name} calm", itertools.repeat(None)), told, prices)
    chaos = World(database, f"{name} chaos", itertools.chain(crashes, itertools.repeat(None)))
    assert chaotic(chaos, told, prices, data) == expected
