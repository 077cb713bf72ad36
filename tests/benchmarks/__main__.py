"""`python -m tests.benchmarks`: every figure, on embedded servers of its own."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import ledger, receiver, recording
from tests.benchmarks.databases import fresh
from tests.benchmarks.measure import Figure, show
from usage_tasks.embedded.servers import Servers, running_servers

RESULTS = Path(".data") / "bench.json"


def run(servers: Servers, directory: Path) -> Iterator[Figure]:
    """Every figure, in turn."""
    server = servers.database_url
    yield from receiver.bench_receiver(servers, directory)
    with fresh(server, "bench_recording") as (database, _):
        ledger.add_history(database, "history ", ledger.HISTORY)
        database.dispose()
        yield from recording.bench_recording(servers, "bench_recording", directory)
    with fresh(server, "bench_limits") as (database, _):
        yield from ledger.bench_limits(database)
    with fresh(server, "bench_small") as (small, _), fresh(server, "bench_large") as (large, url):
        ledger.add_history(small, "history ", ledger.HISTORY // 10)
        ledger.add_history(large, "history ", ledger.HISTORY)
        yield from ledger.bench_idle_tick(large, small)
        yield from ledger.bench_live_balance(large)
        yield from ledger.bench_posting(large, url)


def main() -> int:
    """Print the table; return 1 if a bound does not hold."""
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
