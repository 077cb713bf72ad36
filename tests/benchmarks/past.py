"""`python -m tests.benchmarks.past`: the cost of reading the past of a large account, beside reading its present.

One account has 400,000 sessions over six years; the others have 200,000. The floor is the server's time to count all
entries of the account by an index alone.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text

from tests.benchmarks.databases import fresh
from tests.benchmarks.ledger import post_everything, vacuum
from tests.benchmarks.measure import Figure, median, seconds, show
from tests.benchmarks.population import NOW, add_running, add_years
from tests.factories import DAY
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.embedded.servers import running_servers
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger import balances
from usage_tasks.storage.ledger.usage_report import Group, Scope, sum_usage
from usage_tasks.storage.limits.account_standings import list_accruals

RESULTS: Final = Path(".data") / "past.json"
SESSIONS: Final = 400_000
YEARS: Final = 6
ROUNDS: Final = 15
INSTANTS: Final = {
    "an hour ago": NOW - timedelta(hours=1),
    "a month ago": NOW - 30 * DAY,
    "a year ago": NOW - 365 * DAY,
    "5 years ago": NOW - 5 * 365 * DAY,
    "in 1970": datetime(1970, 1, 1, tzinfo=UTC),
}
COUNT: Final = text("SELECT count(*) FROM ledger_entry WHERE attribution_id = :account AND effective_at > '-infinity'")
"""The floor: a count by an index that has both columns."""


def populate(database: Database) -> AttributionId:
    """Post six years of one account and of a thousand small ones; some sessions of the large account still run."""
    with database.transaction() as connection:
        add_years(connection, "others", count=SESSIONS // 2, accounts=1000, years=YEARS)
        account = add_years(connection, "large", count=SESSIONS, accounts=1, years=YEARS)
    post_everything(database)
    vacuum(database)
    with database.transaction() as connection:
        add_running(connection, account, count=100)
    vacuum(database)
    return account


def bench_past(database: Database, account: AttributionId) -> Iterator[Figure]:
    """The balance, a day's report, sixty ends of cycles, and accruals since an instant, which read later entries."""
    with database.transaction() as connection:
        present = _rounds(lambda: balances.get_balance(connection, account, at=NOW))
        floor = _rounds(lambda: connection.execute(COUNT, {"account": account}))
        yield _beside("balance now", present, floor, 1)
        for when, at in INSTANTS.items():
            rounds = _rounds(partial(balances.get_balance, connection, account, at=at))
            yield _beside(f"balance {when}, {median(rounds) / median(present):.1f}x now", rounds, floor, 1)
        yield from _reports(connection, account, floor)
        cycles = [NOW - 30 * number * DAY for number in range(60)]
        rounds = _rounds(lambda: [balances.get_balance(connection, account, at=at) for at in cycles])
        yield _beside("balances at 60 ends of cycles", rounds, floor, 60)
        for when in ("an hour ago", "a year ago"):
            rounds = _rounds(partial(list_accruals, connection, account, at=INSTANTS[when]))
            yield _beside(f"what went on costing, {when}", rounds, floor, None)


def _reports(connection: Connection, account: AttributionId, floor: list[float]) -> Iterator[Figure]:
    for when, at in INSTANTS.items():
        report = partial(
            sum_usage,
            connection,
            Scope(account=account),
            start=at - DAY,
            end=at,
            at=NOW,
            groups=[Group.WORKSPACE_CLASS],
            after=None,
            limit=10,
        )
        yield _beside(f"report of a day, {when}", _rounds(report), floor, 1)


def _rounds(work: Callable[[], object]) -> list[float]:
    # The server keeps a plan after the first few.
    if seconds(work) > 1:
        return [seconds(work)]
    for _ in range(6):
        work()
    return [seconds(work) for _ in range(ROUNDS)]


def _beside(name: str, rounds: list[float], floor: list[float], at_most: float | None) -> Figure:
    ratio = median(rounds) / median(floor)
    return Figure(
        name=name,
        value=median(rounds) * 1000,
        unit="ms",
        beside="an index-only count of all entries",
        beside_value=median(floor) * 1000,
        bound=f"{'no bound' if at_most is None else f'at most {at_most:g}x'}: {ratio:.2f}x",
        holds=at_most is None or ratio <= at_most,
        rounds=rounds,
    )


def main() -> int:
    """Print the table; return 1 if a bound does not hold."""
    RESULTS.parent.mkdir(exist_ok=True)
    figures = []
    with (
        tempfile.TemporaryDirectory(prefix="usage-bench-") as directory,
        running_servers(Path(directory), os.environ) as servers,
        fresh(servers.database_url, "bench_past") as (database, _),
    ):
        for figure in bench_past(database, populate(database)):
            figures.append(figure)
            sys.stderr.write(f"{figure.name}: {figure.value:.4g} {figure.unit} ({figure.bound})\n")
    show(figures, RESULTS)
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
