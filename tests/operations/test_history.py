"""A look at the present reads no more for a long history: neither a scrape, nor a command, nor a tick.

Left out are the daily looks at everything, which are meant to read it: `maintenance.verify`, `billing.drift_report`.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import psycopg
import pytest
from prometheus_client.openmetrics.exposition import generate_latest

from tests.factories import HOUR, call
from tests.operations.history import GROWING, plant_customers, plant_history
from tests.stripe_world.fixtures import BEGIN
from usage_tasks.commands.operations.exporter import registry_of
from usage_tasks.coordination.clock import TestClock
from usage_tasks.runtime import Runtime
from usage_tasks.services.operations.job_standings import list_job_standings
from usage_tasks.tasks import maintenance
from usage_tasks.tasks.billing import invoices, metering, payments, sync
from usage_tasks.tasks.stripe import events, review
from usage_tasks.tasks.usage import ledger

SHORT, LONG = 4_000, 20_000
BLOCKS_MORE_MAX: Final = 64
"""An index may get a level, and there are eight jobs to look up. The history itself gets hundreds of blocks a table."""

_BLOCKS: Final = """
    SELECT relname, heap_blks_read + heap_blks_hit + COALESCE(idx_blks_read + idx_blks_hit, 0)
    FROM pg_statio_user_tables
"""
_CONNECTED: Final = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


def read_blocks(rt: Runtime, server: "psycopg.Connection[Any]") -> Mapping[str, int]:
    """Return by table how many blocks were read so far. A backend has counted all of its own when it has ended."""
    rt.database.dispose()
    while server.execute(_CONNECTED).fetchone() != (0,):
        time.sleep(0.001)
    return {str(name): int(blocks) for name, blocks in server.execute(_BLOCKS)}


def scrape(rt: Runtime) -> None:
    shown = generate_latest(registry_of(rt)).decode()  # type: ignore[no-untyped-call]  # the library has none
    assert 'usage_exporter_up{part="database"} 1' in shown


def show_jobs(rt: Runtime) -> None:
    with rt.transaction() as connection:
        assert list_job_standings(connection, rt.settings.job_schedules, at=rt.now())


def ticking(task: Any, **arguments: Any) -> Callable[[Runtime], None]:
    def tick(rt: Runtime) -> None:
        assert rt
        assert call(task, **arguments) != {"skipped": 1}

    return tick


LOOKS: Final[Mapping[str, Callable[[Runtime], None]]] = {
    "scrape": scrape,
    "jobs": show_jobs,
    "usage.reconcile": ticking(ledger.reconcile_usage, scheduled=True),
    "usage.reset": ticking(ledger.reset_usage, scheduled=True),
    "billing.sync": ticking(sync.sync_billing, scheduled=True),
    "billing.send_meter_events": ticking(sync.send_meter_events),
    "billing.advance_dunning": ticking(invoices.advance_dunning, scheduled=True),
    "billing.release_holds": ticking(payments.release_holds),
    "billing.settle_doubts": ticking(metering.settle_doubts),
    "billing.reconcile_invoices": ticking(invoices.reconcile_invoices, scheduled=True),
    "stripe.apply_events": ticking(events.apply_events),
    "stripe.backfill_events": ticking(review.backfill_events, scheduled=True),
    "maintenance.prune": ticking(maintenance.prune_history, scheduled=True),
    "maintenance.dispatch_outbox": ticking(maintenance.dispatch_outbox),
}


@pytest.mark.usefixtures("broker")
def test_a_look_at_the_present_reads_no_more_for_a_longer_history(rt: Runtime, database_url: str) -> None:
    with rt.transaction() as connection:
        plant_customers(connection)
    with psycopg.connect(database_url, autocommit=True) as server:
        short = look_after(rt, server, first=1, last=SHORT, hours=0)
        long = look_after(rt, server, first=SHORT + 1, last=LONG, hours=24)
    grown = {
        (look, table): (short[look][table], long[look][table])
        for look in LOOKS
        for table in GROWING
        if long[look][table] > short[look][table] + BLOCKS_MORE_MAX
    }
    assert grown == {}


def look_after(
    rt: Runtime, server: "psycopg.Connection[Any]", *, first: int, last: int, hours: int
) -> Mapping[str, Mapping[str, int]]:
    """Add history up to an instant; return by look and table how many blocks the look reads two hours later."""
    now = BEGIN + hours * HOUR
    with rt.transaction() as connection:
        plant_history(connection, list(rt.settings.job_schedules), first=first, last=last, until=now)
    TestClock(rt.redis).advance(now + HOUR)
    for look in LOOKS.values():  # the first run of each may have something to do
        look(rt)
    server.execute("VACUUM (ANALYZE)")
    TestClock(rt.redis).advance(now + 2 * HOUR)
    rt.redis.flushdb()
    TestClock(rt.redis).advance(now + 2 * HOUR)
    found = {}
    for name, look in LOOKS.items():
        before = read_blocks(rt, server)
        look(rt)
        after = read_blocks(rt, server)
        found[name] = {table: after[table] - before[table] for table in GROWING}
    return found
