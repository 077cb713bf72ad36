"""The ledger engine over large populations."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from sqlalchemy import Connection, create_engine, text

from tests.benchmarks import peer
from tests.benchmarks.measure import ROUNDS, Figure, median, seconds
from tests.benchmarks.population import NOW, add_cost_centers, add_sessions
from tests.factories import DAY, START
from usage_tasks.services.ledger.post_usage import BATCH, announce_limits, post_batch
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger.balances import get_balance

POSTED = 100_000
ACCOUNTS = 5_000
HISTORY = 1_000_000

_FINISHED = """
    CREATE TEMP TABLE finished ON COMMIT DROP AS
    SELECT * FROM ledger_entry ORDER BY posted_at DESC LIMIT :count
"""


def post_everything(database: Database) -> int:
    """Run the steps of the ledger job, without the limits."""
    entries = 0
    while True:
        with database.transaction() as connection:
            batch = post_batch(connection, at=NOW)
        entries += batch.entries
        if batch.entries < BATCH:
            return entries


def add_history(database: Database, tag: str, count: int) -> None:
    """Add sessions of long ago, posted."""
    with database.transaction() as connection:
        add_sessions(connection, tag, count=count, accounts=ACCOUNTS, started_at=START, stopped=True)
    post_everything(database)
    vacuum(database)


def vacuum(database: Database) -> None:
    """Vacuum the posted rows and refresh statistics, as autovacuum does while a history grows."""
    with database._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))


def analyze(database: Database) -> None:
    """Refresh statistics, as autovacuum would have done."""
    with database.transaction() as connection:
        connection.execute(text("ANALYZE"))


def bench_posting(database: Database, url: str) -> Iterator[Figure]:
    """Newly stopped sessions over a long history, beside a bare INSERT ... SELECT and the original's algorithm."""
    engine = create_engine(url)
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE ledger_floor (LIKE ledger_entry INCLUDING ALL)"))
        connection.execute(text("INSERT INTO ledger_floor SELECT * FROM ledger_entry"))
    ours, floor, theirs = [], [], []
    for number in range(ROUNDS):
        day = NOW - (20 - number) * DAY
        with database.transaction() as connection:
            add_sessions(connection, f"new {number} ", count=POSTED, accounts=ACCOUNTS, started_at=day, stopped=True)
        analyze(database)
        peer.make_drafts(engine, day, NOW)
        theirs.append(seconds(partial(peer.reconcile, engine, day, NOW)))
        ours.append(seconds(lambda: post_everything(database)))
        with database.transaction() as connection:
            connection.execute(text(_FINISHED), {"count": POSTED})
            insert = text("INSERT INTO ledger_floor SELECT * FROM finished")
            floor.append(seconds(partial(connection.execute, insert)))
    engine.dispose()
    yield _ratio("post 100,000 of 5,000 accounts", ours, "INSERT ... SELECT", floor, 2.0)
    yield _ratio("the same by the original's algorithm", theirs, "ours", ours, None, at_least=20.0)


def _ratio(
    name: str, value: list[float], beside: str, floor: list[float], at_most: float | None, *, at_least: float = 0
) -> Figure:
    ratio = median(value) / median(floor)
    bound = f"at most {at_most:g}x" if at_most is not None else f"at least {at_least:g}x"
    holds = ratio <= at_most if at_most is not None else ratio >= at_least
    return Figure(
        name=name,
        value=median(value),
        unit="s",
        beside=beside,
        beside_value=median(floor),
        bound=f"{bound}: {ratio:.2f}x",
        holds=holds,
        rounds=value,
    )


def tick(database: Database) -> None:
    """Run a whole tick of the ledger job."""
    post_everything(database)
    with database.transaction() as connection:
        announce_limits(connection, at=NOW)


@contextmanager
def rolled_back(database: Database) -> Iterator[Connection]:
    """A transaction that is rolled back."""
    with database.transaction() as connection:
        yield connection
        connection.rollback()


def bench_idle_tick(database: Database, small_history: Database) -> Iterator[Figure]:
    """A tick with 100,000 sessions running and none stopped, beside the same with a tenth of the history."""
    times = {}
    for name, each in (("small", small_history), ("large", database)):
        with each.transaction() as connection:
            add_cost_centers(connection, accounts=ACCOUNTS)
            add_sessions(connection, "running ", count=POSTED, accounts=ACCOUNTS, started_at=NOW - DAY, stopped=False)
        analyze(each)
        tick(each)
        times[name] = [seconds(partial(tick, each)) for _ in range(ROUNDS)]
    yield _ratio("tick, 100,000 running, none stopped", times["large"], "a tenth of the history", times["small"], 1.2)
    yield _absolute("the same, absolute", times["large"])
    # So each account is rated session by session.
    with database.transaction() as connection:
        connection.execute(text("UPDATE cost_center SET spending_limit = 1"))
    tick(database)
    analyze(database)
    yield _absolute(
        "the same, each account over its limit and announced", [seconds(partial(tick, database)) for _ in range(ROUNDS)]
    )


def _absolute(name: str, rounds: list[float]) -> Figure:
    return Figure(
        name=name,
        value=median(rounds) * 1000,
        unit="ms",
        beside="",
        beside_value=None,
        bound="at most 300 ms",
        holds=median(rounds) <= 0.3,
        rounds=rounds,
    )


def bench_live_balance(database: Database) -> Iterator[Figure]:
    """One account's balance with 1,000 sessions running on it."""
    with database.transaction() as connection:
        add_sessions(connection, "busy ", count=1_000, accounts=1, started_at=NOW - DAY, stopped=False)
        account = connection.execute(text("SELECT 'team:' || md5('account0')::uuid")).scalar_one()
    analyze(database)
    with database.transaction() as connection:
        get_balance(connection, account, at=NOW)
        rounds = [seconds(lambda: get_balance(connection, account, at=NOW)) for _ in range(200)]
        floor = [seconds(lambda: connection.execute(text("SELECT 1"))) for _ in range(200)]
    yield Figure(
        name="live balance, 1,000 running on the account",
        value=median(rounds) * 1000,
        unit="ms",
        beside="SELECT 1",
        beside_value=median(floor) * 1000,
        bound="at most 3 ms",
        holds=median(rounds) <= 0.003,
        rounds=rounds,
    )


def bench_limits(database: Database) -> Iterator[Figure]:
    """Limits of 100,000 accounts in one tick, one session running on each."""
    with database.transaction() as connection:
        add_cost_centers(connection, accounts=POSTED)
        add_sessions(connection, "running ", count=POSTED, accounts=POSTED, started_at=NOW - DAY, stopped=False)
    yield _time_limits(database, "limits of 100,000 accounts")
    with database.transaction() as connection:
        connection.execute(text("UPDATE cost_center SET spending_limit = 1"))
        announce_limits(connection, at=NOW)
    yield _time_limits(database, "the same, each over its limit and announced")


def _time_limits(database: Database, name: str) -> Figure:
    analyze(database)
    rounds = []
    for _ in range(ROUNDS):
        with rolled_back(database) as connection:
            rounds.append(seconds(partial(announce_limits, connection, at=NOW)))
    return Figure(
        name=name,
        value=median(rounds),
        unit="s",
        beside="",
        beside_value=None,
        bound="at most 2 s",
        holds=median(rounds) <= 2,
        rounds=rounds,
    )
