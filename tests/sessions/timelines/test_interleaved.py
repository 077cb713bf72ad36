"""Two transactions meet at a chosen statement: neither deadlocks, and each report ends as in some order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from threading import Barrier, BrokenBarrierError
from time import monotonic, sleep
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, event, text

from tests.factories import HOUR, LIMITS, START, SYSTEM, make_id
from tests.sessions.timelines.oracle import RUNNING, Session, Value, Version
from tests.sessions.timelines.stories import FIRST_VERSION_AT, report, segment
from tests.sessions.timelines.system import NOW, System, assert_same, assert_same_quarantine
from tests.sessions.timelines.test_any_order import listed_prices
from usage_tasks.domain.errors import RetryableError
from usage_tasks.services.sessions.changes import OddRow
from usage_tasks.services.sessions.import_reports import Chunk, import_chunk
from usage_tasks.services.sessions.quarantine import drop_batch
from usage_tasks.services.sessions.snapshot import Snapshot, report_running
from usage_tasks.storage.engine import Database
from usage_tasks.storage.sessions.bulk_copy import COLUMNS
from usage_tasks.storage.sessions.quarantine import Selection
from usage_tasks.storage.sessions.source_snapshots import lock_source
from usage_tasks.wire.session_reports import parse_reports

Report = dict[str, Any]
ANSWER_WITHIN = 10.0
"""Seconds of real time until somebody must wait for a lock."""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def hear(database: Database, *raw: Report) -> None:
    """Record reports as one batch, in a transaction of their own."""
    with database.transaction() as connection:
        System(connection, {}).hear(*raw)


def wait_until_one_waits(database: Database) -> None:
    """Wait until a session of the database waits for a lock."""
    end = monotonic() + ANSWER_WITHIN
    while monotonic() < end:
        with database.transaction() as connection:
            if connection.execute(text(WAITING)).scalar_one():
                return
        sleep(0.02)
    raise AssertionError("nobody waits for a lock")


@contextmanager
def before(connection: Connection, part: str, act: Callable[[], None], *, times: int = 1) -> Iterator[None]:
    """Call `act` once, before the given occurrence of a statement that has a part."""
    seen = 0

    def look(_: object, __: object, statement: str, *___: object) -> None:
        nonlocal seen
        seen += part in statement
        if part in statement and seen == times:
            act()

    event.listen(connection, "before_cursor_execute", look)
    yield
    event.remove(connection, "before_cursor_execute", look)


def test_a_batch_that_contradicts_itself_loses_nothing_beside_the_first_report(database: Database) -> None:
    # Expected: the stop agrees with the earliest report, so it holds, whatever arrived first.
    told = [
        report(workspace_class="large", observed_at=START),
        report(workspace_class="small", observed_at=START + HOUR),
        report(workspace_class="large", observed_at=START + 2 * HOUR, stopped_at=START + 2 * HOUR),
    ]
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as connection:
            System(connection, {}).hear(told[0])
            batch = pool.submit(hear, database, *told[1:])
            wait_until_one_waits(database)
        batch.result()
    with database.transaction() as connection:
        system, session = System(connection, {}), Session(told, listed_prices())
        assert_same(system, session, [])
        assert_same_quarantine(system, session)


def test_two_batches_with_a_contradiction_each_do_not_deadlock(database: Database) -> None:
    one, other = sorted(str(make_id(name)) for name in ("one", "other"))
    for instance in (one, other):
        hear(database, report(instance_id=instance, workspace_class="small"))
    both = Barrier(2, timeout=2)

    def meet() -> None:
        """Go on together; alone if the other one waits for a lock already."""
        with suppress(BrokenBarrierError):
            both.wait()

    def run(whole: str, torn: str) -> None:
        later = START + HOUR
        batch = [
            report(instance_id=whole, workspace_class="small", observed_at=later),
            report(instance_id=torn, workspace_class="small", observed_at=later),
            report(instance_id=torn, workspace_class="large", observed_at=later),
        ]
        with database.transaction() as connection, before(connection, "AS first_observed_at", meet):
            System(connection, {}).hear(*batch)

    with ThreadPoolExecutor(2) as pool:
        batches = [pool.submit(run, one, other), pool.submit(run, other, one)]
        for batch in batches:
            batch.result()


def list_running(connection: Connection, source: str, taken_at: datetime, raw: Sequence[Report]) -> None:
    """Take a snapshot up."""
    reports, malformed = parse_reports(raw, at=taken_at, namespace=lambda: make_id("any"), source=source)
    snapshot = Snapshot(source=source, taken_at=taken_at, reports=reports, malformed=malformed, raw=raw)
    report_running(connection, snapshot, limits=LIMITS, actor=SYSTEM)


def test_a_take_over_does_not_wait_for_a_snapshot_of_the_source_of_what_waits(database: Database) -> None:
    # It holds sessions that the snapshot wants, and the snapshot may not miss the session: it is tried again.
    hear(database, report(workspace_class="small", observed_at=START + HOUR))
    hear(database, report(workspace_class="large", observed_at=START + 2 * HOUR, source="eu"))
    earliest = report(workspace_class="large", observed_at=START)
    ended = "SELECT inferred_stopped_at FROM workspace_instance"
    with database.transaction() as connection:
        lock_source(connection, "eu")
        with pytest.raises(RetryableError):
            hear(database, earliest)
        list_running(connection, "eu", NOW, [])
    hear(database, earliest)
    with database.transaction() as connection:
        system = System(connection, {})
        assert connection.execute(text(ended)).scalars().all() == [START + 2 * HOUR]
        assert [each["observed_at"] for each in system.quarantined()] == [(START + HOUR).isoformat()]
        system.post()
        system.assert_verified()


def test_a_drop_leaves_what_a_take_over_takes_up(database: Database) -> None:
    sessions = sorted(str(make_id(number)) for number in range(40))
    for name, observed_at in (("small", START + HOUR), ("large", START + 2 * HOUR)):
        hear(database, *(report(instance_id=each, workspace_class=name, observed_at=observed_at) for each in sessions))

    def drop() -> int:
        with database.transaction() as connection:
            return len(drop_batch(connection, Selection(), after=None, at=NOW, actor=SYSTEM).dropped)

    earliest = [report(instance_id=each, workspace_class="large", observed_at=START) for each in sessions]
    with database.transaction() as connection:
        System(connection, {}).hear(*earliest)
        assert drop() == 0
    with database.transaction() as connection:
        assert [each["workspace_class"] for each in System(connection, {}).quarantined()] == 40 * ["small"]
    assert drop() == 40


def import_beside_a_snapshot(database: Database, chunk: Chunk, row: Report) -> None:
    """Let an import wait while a snapshot of "eu" has locked its source, and no session yet."""

    def import_rows() -> None:
        with database.transaction() as connection:
            import_it(connection, chunk)

    with ThreadPoolExecutor(1) as pool:
        imports: list[Future[None]] = []

        def begin() -> None:
            imports.append(pool.submit(import_rows))
            wait_until_one_waits(database)

        with database.transaction() as connection, before(connection, "w.timeline IS NOT NULL", begin):
            list_running(connection, "eu", NOW, [row])
        imports[0].result()


def test_an_import_does_not_deadlock_with_a_snapshot_of_the_source_of_an_odd_row(database: Database) -> None:
    plain, odd = (report(instance_id=str(make_id(name)), source="eu") for name in ("plain", "odd"))
    chunk = chunk_of({**plain, "source": ""}, odd={3: OddRow(odd, make_id("odd"))})

    import_beside_a_snapshot(database, chunk, plain)
    with database.transaction() as connection:
        assert connection.execute(text("SELECT source FROM workspace_instance")).scalars().all() == ["eu", "eu"]


ONE, OTHER = sorted(str(make_id(name)) for name in ("one", "other"))


def meet(database: Database, part: str, act: Callable[[Connection], object], *, times: int = 1) -> None:
    """Let a batch of both sessions wait before a statement of `act`, which holds the second one."""
    with ThreadPoolExecutor(1) as pool:
        batches: list[Future[None]] = []
        told = [report(instance_id=each, observed_at=START + 2 * HOUR) for each in (ONE, OTHER)]

        def begin() -> None:
            batches.append(pool.submit(hear, database, *told))
            wait_until_one_waits(database)

        with database.transaction() as connection, before(connection, part, begin, times=times):
            act(connection)
        batches[0].result()


def chunk_of(*plain: Report, odd: Mapping[int, OddRow] = MappingProxyType({})) -> Chunk:
    """A chunk of a file."""
    rows = {line: tuple(str(row.get(name, "")) for name in COLUMNS) for line, row in enumerate(plain, start=2)}
    return Chunk(plain=rows, odd=dict(odd))


def import_it(connection: Connection, chunk: Chunk) -> None:
    """Import a chunk."""
    import_chunk(connection, chunk, opened=frozenset(), limits=LIMITS, at=NOW, actor=SYSTEM)


def test_an_import_does_not_deadlock_with_a_batch(database: Database) -> None:
    hear(database, report(instance_id=ONE), report(instance_id=OTHER))
    plain = report(instance_id=OTHER, observed_at=START + HOUR)
    odd = report(instance_id=ONE, observed_at=START + HOUR, segments=[segment(START + HOUR, "large")])
    chunk = chunk_of(plain, odd={3: OddRow(odd, UUID(ONE))})
    meet(database, "INSERT INTO workspace_instance", lambda connection: import_it(connection, chunk), times=2)


def test_an_import_of_plain_rows_that_contradict_does_not_deadlock_with_a_snapshot(database: Database) -> None:
    other = report(instance_id=OTHER)
    rows = [report(instance_id=ONE, source="eu", workspace_class=name) for name in ("small", "large")]
    chunk = chunk_of(other, *rows)
    import_beside_a_snapshot(database, chunk, other)


def test_a_release_in_parts_does_not_deadlock_with_a_batch(database: Database) -> None:
    hear(database, report(instance_id=ONE), report(instance_id=OTHER))
    with database.transaction() as connection:
        list_running(connection, "eu", START + HOUR, [report(instance_id=OTHER, workspace_class="gold")])
    hear(database, report(instance_id=ONE, workspace_class="gold"))
    with database.transaction() as connection:
        System(connection, {}).add_price(Value("gold", RUNNING), Version(FIRST_VERSION_AT, Decimal(2)))
    meet(database, "INSERT INTO workspace_instance", lambda connection: System(connection, {}).release(), times=2)
