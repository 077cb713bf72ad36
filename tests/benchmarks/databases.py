"""Databases for benchmarks, on a server of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tests.conftest import PRICES
from tests.factories import START, SYSTEM
from usage_tasks.storage import migrate
from usage_tasks.storage.engine import Database
from usage_tasks.storage.pricing.prices import publish_prices


@contextmanager
def fresh(server: str, name: str) -> Iterator[tuple[Database, str]]:
    """A database with a price list. It is dropped at the end, so the server spends no later work on it."""
    with _created(server, name) as url:
        migrate.upgrade(url)
        database = Database(url)
        with database.transaction() as connection:
            publish_prices(connection, PRICES, at=START, actor=SYSTEM)
        yield database, url
        database.dispose()


@contextmanager
def copied(server: str, template: str) -> Iterator[str]:
    """The URL of a copy of a database without connections: each round begins in the same state as the first."""
    with _created(server, f"{template}_copy", f'TEMPLATE "{template}" STRATEGY file_copy') as url:
        yield url.replace("postgresql+psycopg://", "postgresql://")


@contextmanager
def _created(server: str, name: str, how: str = "") -> Iterator[str]:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" {how}')
        yield server.rpartition("/")[0].replace("postgresql://", "postgresql+psycopg://") + f"/{name}"
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
