"""`python -m tests.benchmarks`: every figure, on embedded servers of its own."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.benchmarks import ledger, receiver, recording
from tests.benchmarks.measure import Figure, show
from tests.conftest import PRICES
from tests.factories import START, SYSTEM
from usage_tasks.embedded.servers import Servers, running_servers
from usage_tasks.storage import migrate
from usage_tasks.storage.engine import Database
from usage_tasks.storage.prices import publish_prices

RESULTS = Path(".data") / "bench.json"


@contextmanager
def fresh(server: str, name: str) -> Iterator[tuple[Database, str]]:
    """A database with a price list; it goes at the end, and with it what the server would do for it meanwhile."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    url = server.rpartition("/")[0].replace("postgresql://", "postgresql+psycopg://") + f"/{name}"
    migrate.upgrade(url)
    database = Database(url)
    with database.transaction() as connection:
        publish_prices(connection, PRICES, at=START, actor=SYSTEM)
    yield database, url
    database.dispose()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def run(servers: Servers, directory: Path) -> Iterator[Figure]:
    """Every figure, in turn."""
    server = servers.database_url
    yield from receiver.bench_receiver(servers, directory)
    with fresh(server, "bench_recording") as (_, url):
        yield from recording.bench_recording(url.replace("postgresql+psycopg://", "postgresql://"), servers, directory)
    with fresh(server, "bench_limits") as (database, _):
        yield from ledger.bench_limits(database)
    with fresh(server, "bench_small") as (small, _), fresh(server, "bench_large") as (large, url):
        ledger.add_history(small, "history ", ledger.HISTORY // 10)
        ledger.add_history(large, "history ", ledger.HISTORY)
        yield from ledger.bench_idle_tick(large, small)
        yield from ledger.bench_live_balance(large)
        yield from ledger.bench_posting(large, url)


def main() -> int:
    """Print the table; answer 1 where a bound does not hold."""
    RESULTS.parent.mkdir(exist_ok=True)
    figures = []
    with (
        tempfile.TemporaryDirectory(prefix="usage-bench-") as directory,
        running_servers(Path(directory), os.environ) as servers,
    ):
        for figure in run(servers, Path(directory)):
            figures.append(figure)
            sys.stderr.write(f"{figure.name}: {figure.value:.4g} {figure.unit} ({figure.bound})\n")
    show(figures, RESULTS)
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
