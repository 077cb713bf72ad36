"""`python -m tests.benchmarks.outbox`: the time until the platform hears that 10,000 accounts must be stopped.

The floor: the same messages, pushed to Redis by bare pipelines of the same length. Beside it stands the method before
migration 0021: a hundred messages a run, one run a minute. The same run measures this method and the exporter's look at
the jobs.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis
from sqlalchemy import text

from tests.benchmarks.databases import fresh
from tests.benchmarks.ledger import vacuum
from tests.benchmarks.measure import ROUNDS, Figure, median, seconds, show
from tests.benchmarks.population import NOW
from usage_tasks.celery import app
from usage_tasks.embedded.servers import running_servers
from usage_tasks.services.operations.dispatch_outbox import BATCH, LEASE
from usage_tasks.storage.engine import Database
from usage_tasks.storage.operations import jobs, outbox

ANNOUNCEMENTS: Final = 10_000
BEFORE: Final = 100
"""The former limit of a run."""
RUNS: Final = 700_000
"""The number of job runs in a year."""
RESULTS: Final = Path(".data") / "bench-outbox.json"
QUEUE: Final = "usage:server"

_ANNOUNCE: Final = """
    INSERT INTO outbox (key, task, payload)
    SELECT 'usage_hard_limit_reached:' || n, 'server.usage_hard_limit_reached', jsonb_build_object(
        'attribution_id', 'team:' || md5(n::text)::uuid, 'cycle_started_at', '2026-01-31T10:00:00+00:00',
        'spending_limit', 500, 'level_cents', 50000, 'percent', 100, 'balance_cents', 50001, 'at', now())
    FROM generate_series(1, CAST(:count AS int)) AS n ORDER BY n
"""
_RUNS: Final = """
    INSERT INTO job_run (job, slot, started_at, finished_at, outcome)
    SELECT job, at, at, at, CASE WHEN job = 'never' OR n % 10 = 0 THEN 'failed' ELSE 'done' END
    FROM (SELECT n, CAST(:now AS timestamptz) - n * interval '1 minute' AS at,
                 (ARRAY['usage.reconcile', 'never', 'billing.sync', 'usage.reset'])[1 + n % 4] AS job
          FROM generate_series(1, CAST(:count AS int)) AS n) AS planted
"""
_LAST_RUNS_BEFORE: Final = """
    SELECT DISTINCT ON (job) job, slot, started_at, finished_at, outcome, attempts,
           (SELECT max(done.slot) FROM job_run AS done WHERE done.job = run.job AND done.outcome = 'done') AS done_slot
    FROM job_run AS run ORDER BY job, slot DESC
"""


def announce(database: Database) -> None:
    """Store the announcements, none sent."""
    with database.transaction() as connection:
        connection.execute(text("TRUNCATE outbox"))
        connection.execute(text(_ANNOUNCE), {"count": ANNOUNCEMENTS})
    vacuum(database)


def dispatch_as_before(database: Database) -> int:
    """Send a hundred messages one by one, as `maintenance.dispatch_outbox` did. Return their number."""
    with database.transaction() as connection:
        claimed = outbox.claim_announcements(connection, limit=BEFORE, lease=LEASE)
    for each in claimed:
        app.send_task(each.task, kwargs=json.loads(each.payload), task_id=each.key, queue="server", ignore_result=True)
    with database.transaction() as connection:
        outbox.mark_dispatched(connection, claimed)
    return len(claimed)


def drain_as_before(database: Database) -> None:
    """Do all the runs that the former method took, without the minutes between them."""
    while dispatch_as_before(database):
        pass


def push(client: "redis.Redis", bodies: list[bytes]) -> None:
    """Send the messages to Redis: the floor."""
    for first in range(0, len(bodies), BATCH):
        with client.pipeline(transaction=False) as pipe:
            for body in bodies[first : first + BATCH]:
                pipe.lpush(QUEUE, body)
            pipe.execute()


def bench_outbox(database: Database, client: "redis.Redis") -> Iterator[Figure]:
    """One run of the task, in this process, beside the floor and the former method."""
    dispatch: Any = app.tasks["maintenance.dispatch_outbox"]
    ours, floor, before = [], [], []
    in_order = True
    expected = [f'"usage_hard_limit_reached:{number}"'.encode() for number in range(1, ANNOUNCEMENTS + 1)]
    for _ in range(ROUNDS):
        announce(database)
        client.delete(QUEUE)
        ours.append(seconds(dispatch))
        bodies: list[bytes] = list(reversed(client.lrange(QUEUE, 0, -1)))  # type: ignore[arg-type]
        in_order &= len(bodies) == ANNOUNCEMENTS
        in_order &= all(b'"id": ' + key in body for key, body in zip(expected, bodies, strict=True))
        client.delete(QUEUE)
        floor.append(seconds(partial(push, client, bodies)))
        announce(database)
        client.delete(QUEUE)
        before.append(seconds(partial(drain_as_before, database)))
    yield Figure(
        name="10,000 announcements sent, one run",
        value=median(ours),
        unit="s",
        beside="bare pipelines",
        beside_value=median(floor),
        bound=f"all, once, in order: {median(ours) / median(floor):.1f}x",
        holds=in_order,
        rounds=ours,
    )
    yield Figure(
        name="the same a hundred a run, as before 0021",
        value=median(before),
        unit="s",
        beside="one run now",
        beside_value=median(ours),
        bound=f"and a minute between each of {ANNOUNCEMENTS // BEFORE} runs: {median(before) / median(ours):.1f}x",
        holds=median(before) > median(ours),
        rounds=before,
    )


def bench_last_runs(database: Database) -> Iterator[Figure]:
    """The exporter's look at the jobs after a year of runs, beside the former statements."""
    names = ["usage.reconcile", "never", "billing.sync", "usage.reset"]
    with database.transaction() as connection:
        connection.execute(text(_RUNS), {"count": RUNS, "now": NOW})
    vacuum(database)
    until = NOW + timedelta(minutes=1)
    with database.transaction() as connection:
        for _ in range(6):  # the server keeps a plan after the first few
            jobs.list_last_runs(connection, names, until=until)
        ours = [seconds(partial(jobs.list_last_runs, connection, names, until=until)) for _ in range(ROUNDS)]
        floor = [seconds(partial(connection.execute, text("SELECT 1"))) for _ in range(ROUNDS)]
        before = [seconds(partial(connection.execute, text(_LAST_RUNS_BEFORE)))]
    for name, rounds in (("the latest runs after 700,000", ours), ("the same with a sub-select a row", before)):
        yield Figure(
            name=name,
            value=median(rounds) * 1000,
            unit="ms",
            beside="SELECT 1",
            beside_value=median(floor) * 1000,
            bound=f"{median(before) / median(rounds):.0f}x faster than a sub-select a row",
            holds=median(ours) < median(before),
            rounds=rounds,
        )


def main() -> int:
    """Print the table; return 1 if a bound does not hold."""
    RESULTS.parent.mkdir(exist_ok=True)
    figures = []
    with (
        tempfile.TemporaryDirectory(prefix="usage-bench-") as directory,
        running_servers(Path(directory), os.environ) as servers,
        fresh(servers.database_url, "bench_outbox") as (database, url),
    ):
        os.environ |= {
            "DATABASE_URL": url.replace("postgresql+psycopg://", "postgresql://"),
            "REDIS_URL": servers.redis_url,
            "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"small": 0.1}',
            "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 500, "forUsers": 100}',
        }
        app.conf["broker_url"] = servers.redis_url
        app.loader.import_default_modules()
        for figure in (*bench_outbox(database, redis.Redis.from_url(servers.redis_url)), *bench_last_runs(database)):
            figures.append(figure)
            sys.stderr.write(f"{figure.name}: {figure.value:.4g} {figure.unit} ({figure.bound})\n")
    show(figures, RESULTS)
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
