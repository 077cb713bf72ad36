"""A sample of the real quarter, walked through a world while it is being killed, and calmly beside it."""

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import psycopg

from tests.chaos.world import World
from usage_tasks.demo.installation import CREDITS_PER_MINUTE
from usage_tasks.demo.quarter import Session, load_quarter, reports_between
from usage_tasks.demo.replay import BEGIN, END
from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.services.ledger.post_usage import BATCH, post_batch
from usage_tasks.services.ledger.reset import reset_due
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.services.sessions.record import record_reports
from usage_tasks.storage import migrate
from usage_tasks.storage.engine import Database
from usage_tasks.storage.pricing.prices import publish_prices
from usage_tasks.wire.session_reports import parse_reports

CREDITS_PER_MINUTE_EXACT: Final = {name: Decimal(str(price)) for name, price in CREDITS_PER_MINUTE.items()}
ACTOR: Final = "service:chaos"
LIMITS: Final = SpendingLimits(for_teams=500, for_users=100, min_for_users_on_stripe=0)
REPORTS_MAX: Final = 500
TOTALS: Final = """
    SELECT attribution_id, used_cents, invoiced_cents, covered_cents, forgiven_cents, carried_cents,
           (SELECT count(*) FROM ledger_entry AS entry WHERE entry.attribution_id = account_balance.attribution_id)
    FROM account_balance ORDER BY 1
"""
KILLS: Final = ("child", "worker", "beat")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Every so-manieth session of the quarter, ticked every so often."""

    every: int
    step: timedelta

    def sessions(self) -> Sequence[Session]:
        return load_quarter()[:: self.every]

    def instants(self) -> list[datetime]:
        return [BEGIN + self.step * number for number in range(1, (END - BEGIN) // self.step + 1)]


def batches(sample: Sample) -> list[tuple[datetime, list[list[dict[str, str | None]]]]]:
    """The session reports of each instant."""
    found, sessions, before = [], sample.sessions(), BEGIN
    for instant in sample.instants():
        reports = reports_between(sessions, before, instant)
        found.append((instant, [reports[at : at + REPORTS_MAX] for at in range(0, len(reports), REPORTS_MAX)]))
        before = instant
    return found


_JOBS: Final[tuple[tuple[Any, Callable[[Any], bool]], ...]] = (
    (post_batch, lambda done: done.entries < BATCH),
    (reset_due, lambda done: done.idle),
)


def calm(url: str, sample: Sample) -> list[tuple[Any, ...]]:
    """The totals of a run of services alone, in a database of its own: no broker, no worker, no fault."""
    name = f"calm_{sample.every}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}"')
        connection.execute(f'CREATE DATABASE "{name}"')
    own = url.rpartition("/")[0].replace("postgresql://", "postgresql+psycopg://") + f"/{name}"
    migrate.upgrade(own)
    database = Database(own)
    with database.transaction() as connection:
        publish_prices(connection, CREDITS_PER_MINUTE_EXACT, at=BEGIN, actor=Actor(ACTOR))
    for instant, parts in batches(sample):
        for part in parts:
            good, bad = parse_reports(part, at=instant, namespace=uuid4)
            with database.transaction() as connection:
                record_reports(connection, good, bad, raw=part, limits=LIMITS, at=instant, actor=Actor(ACTOR))
        for work, idle in _JOBS:
            while True:
                with database.transaction() as connection:
                    done: Any = work(connection, at=instant)
                if idle(done):
                    break
    database.dispose()
    with psycopg.connect(own.replace("+psycopg", "")) as connection:
        return connection.execute(TOTALS).fetchall()


def walk(world: World, sample: Sample, *, at_instant: Callable[[int], None] = lambda _: None) -> list[tuple[Any, ...]]:
    """Record, reconcile and reset by tasks, whatever happens to their workers; return the totals."""
    for number, (instant, parts) in enumerate(batches(sample)):
        at_instant(number)
        at = instant.isoformat()
        for part in parts:
            world.ask("usage.record_instances", instances=part, actor=ACTOR, at=at)
        world.clock.advance(instant)
        world.ask("usage.reconcile", at=at)
        world.ask("usage.reset", at=at)
    return world.query(TOTALS)


class Killer:
    """Kills somebody at seeded random moments while instants are walked."""

    def __init__(self, world: World, sample: Sample, seed: int, *, kills: int = len(KILLS)) -> None:
        self._world, self._random, self.done = world, random.Random(seed), list[str]()
        count = len(sample.instants())
        moments = sorted(self._random.sample(range(count), min(kills, count)))
        whom = [KILLS[number % len(KILLS)] for number in range(len(moments))]
        self._random.shuffle(whom)
        self._plan = dict(zip(moments, whom, strict=True))
        self._timers: list[threading.Timer] = []

    def __call__(self, number: int) -> None:
        """Arm what is planned for an instant."""
        if whom := self._plan.get(number):
            timer = threading.Timer(self._random.uniform(0, 0.3), self._kill, [whom])
            self._timers.append(timer)
            timer.start()

    def _kill(self, whom: str) -> None:
        with suppress(OSError):
            self._world.kill("beat 1" if whom == "beat" else "work", child=whom == "child")
        self.done.append(whom)

    def join(self) -> None:
        """Wait for the last."""
        for timer in self._timers:
            timer.join()


def is_whole(world: World, at: datetime = END) -> bool:
    """Whether every invariant of the ledger holds."""
    database = Database(world.database_url.replace("postgresql://", "postgresql+psycopg://"))
    with database.transaction() as connection:
        clean = verify(connection, at=at).clean
    database.dispose()
    return clean
