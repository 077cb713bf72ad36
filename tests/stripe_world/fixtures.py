"""A simulator beside a database, and the process's own runtime on both."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.broker_pools import forget_pools
from tests.faults.deaths import Mortals
from tests.stripe_world.bench import Bench
from tests.stripe_world.world import KEY, StripeWorld, stripe_world
from usage_tasks.celery import app
from usage_tasks.settings.values import CALLS_PER_SECOND_MAX
from usage_tasks.storage.engine import Database

BEGIN = datetime(2026, 1, 31, 10, tzinfo=UTC)
"""Subscriptions begin on the 31st, so that their periods end on the last day of shorter months."""


@pytest.fixture
def world() -> Iterator[StripeWorld]:
    """A simulator on a clock that stands still at BEGIN."""
    with stripe_world(BEGIN) as running:
        yield running


@pytest.fixture
def bench(database: Database, world: StripeWorld) -> Bench:
    """A database and a simulator of this test's own."""
    return Bench(database=database, world=world, stripe=world.gateway())


@pytest.fixture
def environment(environment: dict[str, str], world: StripeWorld, tmp_path: Path) -> dict[str, str]:
    """An installation that calls the simulator."""
    prices = ", ".join(f'"{currency}": "{price}"' for currency, price in world.price_by_currency.items())
    return environment | {
        "USAGE_STRIPE_API_BASE": world.url,
        "USAGE_STRIPE_PRICES": f'{{"teamUsagePriceIds": {{{prices}}}, "individualUsagePriceIds": {{{prices}}}}}',
        "USAGE_STRIPE_CALLS_PER_SECOND": str(CALLS_PER_SECOND_MAX),
        "STRIPE_SECRET_KEY": KEY,
    }


@pytest.fixture
def broker(redis_url: str, rt: object) -> Iterator[str]:
    """The broker that tasks enqueue to; no worker listens."""
    before = app.conf["broker_url"]
    app.conf["broker_url"] = redis_url
    forget_pools()
    yield redis_url
    app.conf["broker_url"] = before


@pytest.fixture(scope="session")
def mortals() -> Iterator[Mortals]:
    """The starter of processes that die; it is started itself at its first use."""
    started = Mortals()
    yield started
    started.close()
