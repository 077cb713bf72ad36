"""Real servers for every test: one start a session, one database cloned from a template for each test."""

import gc
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Final, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import structlog
from hypothesis import settings
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from tests.factories import START, SYSTEM
from tests.server_directory import server_directory
from usage_tasks.embedded.servers import Servers, running_servers
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.settings import load_settings
from usage_tasks.storage import migrate
from usage_tasks.storage.engine import Database
from usage_tasks.storage.pricing.prices import publish_prices
from usage_tasks.telemetry.clocks import CLOCKS, Clocks

PRICES: Final = MappingProxyType(
    {
        "default": Decimal("0.1666666667"),
        "small": Decimal("0.1"),
        "medium": Decimal("0.2"),
        "large": Decimal("0.5"),
        "xlarge": Decimal(1),
    }
)
TEMPLATE: Final = f"usage_template_{os.getpid()}"
TESTS: Final = Path(__file__).parent
WAITING: Final = (
    "worker/test_broker_errors.py",
    "worker/test_progress.py",
    "commands/doctor/test_faults.py",
    "commands/doctor/test_silent_peers.py",
    "worker/test_signals.py",
    "worker/test_upgrade.py",
    "commands/test_failures.py",
    "storage/test_silent_peer.py",
    "installation/test_tls.py",
    "installation/test_foreign.py",
    "chaos/test_short.py",
    "worker/test_interruptions.py",
    "chaos/test_clocks.py",
    "webhook_app/test_port.py",
    "webhook_app/test_broker.py",
    "commands/test_doctor.py",
    "worker/test_beat.py",
    "worker/test_guard.py",
    "limits/test_limit_tasks.py",
    "commands/doctor/test_queues.py",
    "coordination/test_broker_answers.py",
)
"""Files that wait for seconds on end, the longest first: a process that runs one needs little of a processor."""

COMPUTING: Final = (
    "demo/test_quarter.py",
    "faults/test_kill_matrix.py",
    "commands/test_conditions.py",
    "demo/test_ending.py",
    "sessions/timelines/test_any_order.py",
    "worker/test_malformed.py",
    "docs/test_readme.py",
    "stripe_gateway/test_described_objects.py",
    "coordination/test_unreadable.py",
    "webhook_app/test_serve.py",
    "packaging/test_installed.py",
    "telemetry/test_metrics.py",
    "webhook_app/test_fault_run.py",
    "inbox/test_any_order.py",
    "payments/test_three_months.py",
)
"""Files that keep a processor busy, the longest first."""

FIRST: Final = tuple(file for pair in itertools.zip_longest(WAITING, COMPUTING) for file in pair if file)
"""The longest files: begun last, they would keep one test process busy when the others have ended.

A waiting file and a computing one in turn, so that at each time some processes wait and some compute. The chaos suite
has bounds of real time: it begins when the demo has ended.
"""
_numbers = itertools.count(1)

# No example has a bound of time: machines are shared.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the longest files begin; otherwise the order stays."""
    places = {TESTS / file: place for place, file in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the collector of garbage from looking at what is imported: it lives as long as the process."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Restore logging after each test: a test may configure it like a worker; others need lines of every level."""
    lines, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**lines)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def clocks_unseen() -> None:
    """No test uses clock readings of an earlier test: a stand-in's clock may stand still in another year."""
    vars(CLOCKS).update(vars(Clocks()))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and Redis: the servers of DATABASE_URL and REDIS_URL, else embedded servers per test process."""
    logs = tmp_path_factory.mktemp("servers")
    with server_directory() as directory, running_servers(directory, os.environ) as running:
        yield replace(running, redis_url=_own_redis_database(running.redis_url))
        for log in directory.glob("*/log"):
            shutil.copy(log, logs / f"{log.parent.name}.log")


Administer = Callable[..., None]


@pytest.fixture(scope="session")
def administer(servers: Servers) -> Iterator[Administer]:
    """Run a statement outside of a transaction. One connection for all: each new connection costs the server 3 ms."""
    server = make_conninfo("", **{**conninfo_to_dict(servers.database_url), "dbname": "postgres"})
    with psycopg.connect(server, autocommit=True) as connection:

        def execute(statement: LiteralString, *names: str) -> None:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

        yield execute


@pytest.fixture(scope="session")
def template(servers: Servers, administer: Administer) -> Iterator[str]:
    """A migrated database with a price list, to be cloned."""
    administer("CREATE DATABASE {}", TEMPLATE)
    database = Database(_sqlalchemy_url(servers, TEMPLATE))
    try:
        migrate.upgrade(_sqlalchemy_url(servers, TEMPLATE))
        with database.transaction() as connection:
            publish_prices(connection, PRICES, at=START, actor=SYSTEM)
        database.dispose()
        yield TEMPLATE
    finally:
        database.dispose()
        administer("DROP DATABASE {} WITH (FORCE)", TEMPLATE)


Clone = Callable[[], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def clone(servers: Servers, administer: Administer, template: str) -> Clone:
    """Make a fresh database for the length of a block, which gets its URL as psycopg takes it."""

    @contextmanager
    def cloned() -> Iterator[str]:
        name = f"usage_test_{os.getpid()}_{next(_numbers)}"
        administer("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, template)
        try:
            yield make_url(servers.database_url).set(database=name).render_as_string(hide_password=False)
        finally:
            administer("DROP DATABASE {} WITH (FORCE)", name)

    return cloned


@pytest.fixture
def database_url(clone: Clone) -> Iterator[str]:
    """A fresh database of this test's own."""
    with clone() as url:
        yield url


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """An empty Redis."""
    client = redis.Redis.from_url(servers.redis_url)
    client.flushdb()
    client.close()
    return servers.redis_url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The test's database; `transaction()` commits."""
    opened = Database(with_driver(database_url))
    yield opened
    opened.dispose()


@pytest.fixture(scope="session")
def shared_database(clone: Clone) -> Iterator[Database]:
    """A database without commits, for tests that are one transaction."""
    with clone() as url:
        opened = Database(with_driver(url))
        yield opened
        opened.dispose()


@pytest.fixture
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A transaction for the whole test, rolled back at its end; in the test's own database if it requests that."""
    owns = "database_url" in request.fixturenames
    opened: Database = request.getfixturevalue("database" if owns else "shared_database")
    with opened.transaction() as begun:
        yield begun
        begun.rollback()


@pytest.fixture
def environment(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    """The variables of a separate installation; a test adds Stripe's."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("USAGE_", "STRIPE_"))}
    return inherited | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"small": 0.1, "medium": 0.2, "large": 0.5, "xlarge": 1}',
        "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 500, "forUsers": 100}',
        "USAGE_TEST_CLOCK": "true",
        "HOME": str(tmp_path),
    }


@pytest.fixture
def rt(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """This process's runtime, on the test's own servers: tasks called here use it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    runtime.cache_clear()
    built = runtime()
    assert built.settings == load_settings(environment)
    yield built
    built.database.dispose()
    runtime.cache_clear()


@pytest.fixture
def real_rt(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    """This process's runtime without a test clock: its time is the database's."""
    assert rt.settings.test_clock
    monkeypatch.setenv("USAGE_TEST_CLOCK", "false")
    runtime.cache_clear()
    yield runtime()
    runtime().database.dispose()


def _own_redis_database(url: str) -> str:
    """The database that the URL names, or for the n-th of several test processes the n-th after it."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    parts = urlsplit(url)
    return parts._replace(path=f"/{int(parts.path.strip('/') or 0) + number}").geturl()


def _sqlalchemy_url(servers: Servers, name: str) -> str:
    url = make_url(servers.database_url).set(database=name)
    return with_driver(url.render_as_string(hide_password=False))


def with_driver(url: str) -> str:
    """Return a URL as SQLAlchemy takes it."""
    return make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
