"""Reports of sessions into the database: by task through one worker, and by the command line from a file."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from celery import Celery
from psycopg import sql

from tests.benchmarks.databases import copied
from tests.benchmarks.measure import ROUNDS, Figure, median, seconds
from tests.factories import START, make_id
from usage_tasks import client
from usage_tasks.embedded.processes import child_process
from usage_tasks.embedded.servers import Servers

RECORDED = 50_000
SMALL, LARGE = 100_000, 1_000_000
# The high-water mark exists on Linux only; getrusage of a child would include its parent's memory.
_RUN = """
import re, sys
from pathlib import Path
from usage_tasks.cli import main
try:
    main()
finally:
    sys.stderr.write(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
_PREFIX = {"global_keyprefix": "usage:"}
_ACCOUNTS = [f"team:{make_id(f'account {number}')}" for number in range(5_000)]
_USERS = [str(make_id(f"user {number}")) for number in range(997)]
_CLASSES = ("small", "medium", "large", "xlarge")


def report(tag: str, number: int) -> dict[str, str]:
    """One session of a day, stopped."""
    started = START + timedelta(seconds=number % 86_400)
    stopped = started + timedelta(seconds=60 + number % 7_200)
    return {
        "instance_id": str(make_id(f"{tag} {number}")),
        "workspace_id": f"ws-{number}",
        "user_id": _USERS[number % len(_USERS)],
        "attribution_id": _ACCOUNTS[number % len(_ACCOUNTS)],
        "workspace_class": _CLASSES[number % len(_CLASSES)],
        "started_at": started.isoformat(),
        "created_at": started.isoformat(),
        "stopping_at": stopped.isoformat(),
        "stopped_at": stopped.isoformat(),
        "observed_at": stopped.isoformat(),
        "source": "eu-1",
    }


def bench_recording(servers: Servers, template: str, directory: Path) -> Iterator[Figure]:
    """Both ways, over a history, each beside a bare COPY of the same rows into a twin of the table."""
    environment = {
        **os.environ,
        "REDIS_URL": servers.redis_url,
        "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"small": 0.1, "medium": 0.2, "large": 0.5, "xlarge": 1}',
        "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 500, "forUsers": 100}',
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with copied(servers.database_url, template) as url:
        yield _by_task({**environment, "DATABASE_URL": url}, directory)
    yield from _by_file(servers.database_url, template, environment, directory)


def _by_task(environment: Mapping[str, str], directory: Path) -> Figure:
    app = Celery("sender", broker=environment["REDIS_URL"], backend=environment["REDIS_URL"], set_as_current=False)
    app.conf.update(broker_transport_options=_PREFIX, result_backend_transport_options=_PREFIX)
    rates, floor = [], []
    with _worker(environment, directory), psycopg.connect(environment["DATABASE_URL"]) as connection:
        for number in range(ROUNDS + 1):
            reports = [report(f"task {number}", each) for each in range(RECORDED)]
            send = partial(client.record, app, reports, actor="service:bench")
            rates.append(RECORDED / seconds(send))
            lines = (",".join(each.values()) for each in reports)
            floor.append(RECORDED / _copy_seconds(connection, ",".join(reports[0]), lines))
    return _rate("record by task, batches of 1,000, one worker", rates[1:], floor[1:], at_least=10_000)


def _by_file(server: str, template: str, environment: Mapping[str, str], directory: Path) -> Iterator[Figure]:
    rates, floor, peaks, small = [], [], [], []
    for number in range(ROUNDS):
        with copied(server, template) as url:
            asked = {**environment, "DATABASE_URL": url}
            small.append(_import(_write(directory / "small.csv", "small", SMALL), asked)[1])
        path = _write(directory / "large.csv", f"file {number}", LARGE)
        with copied(server, template) as url:
            taken, peak = _import(path, {**environment, "DATABASE_URL": url})
            rates.append(LARGE / taken)
            peaks.append(peak)
            with psycopg.connect(url) as connection, path.open() as lines:
                columns = next(lines).strip()
                floor.append(LARGE / _copy_seconds(connection, columns, lines))
    yield _rate("usage-tasks import of 1,000,000, the whole process", rates, floor, at_least=50_000)
    ratio = median(peaks) / median(small)
    yield Figure(
        name="its memory",
        value=median(peaks),
        unit="MB",
        beside="100,000 rows",
        beside_value=median(small),
        bound=f"flat, at most 1.1x: {ratio:.2f}x",
        holds=ratio <= 1.1,
        rounds=peaks,
    )


def _rate(name: str, rates: list[float], floor: list[float], *, at_least: int) -> Figure:
    return Figure(
        name=name,
        value=median(rates),
        unit="sessions/s",
        beside="bare COPY into such a table",
        beside_value=median(floor),
        bound=f"at least {at_least:,}",
        holds=median(rates) >= at_least,
        rounds=rates,
    )


@contextmanager
def _worker(environment: Mapping[str, str], directory: Path) -> Iterator[None]:
    log = directory / "worker.log"
    command = "celery -A usage_tasks worker --queues=usage --concurrency=2 --loglevel=INFO"
    with child_process(
        [sys.executable, "-m", *command.split()],
        name="worker",
        log=log,
        environment=environment,
        ready=lambda: " ready." in log.read_text(),
        ready_seconds_max=60,
    ):
        yield


def _write(path: Path, tag: str, count: int) -> Path:
    with path.open("w") as file:
        file.write(",".join(report(tag, 0)) + "\n")
        file.writelines(",".join(report(tag, number).values()) + "\n" for number in range(count))
    return path


def _import(path: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """Run the command; return its seconds and its peak memory in MB."""
    command = [sys.executable, "-c", _RUN, "import", str(path)]
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, int(done.stderr.split()[-1]) / 1024


def _copy_seconds(connection: psycopg.Connection[Any], columns: str, lines: Iterable[str]) -> float:
    connection.execute("CREATE TABLE IF NOT EXISTS recorded_floor (LIKE workspace_instance INCLUDING ALL)")
    connection.execute("ALTER TABLE recorded_floor ALTER COLUMN source_seen_at SET DEFAULT now()")
    connection.commit()
    started = time.perf_counter()
    statement = sql.SQL("COPY recorded_floor ({}) FROM STDIN (FORMAT csv)").format(
        sql.SQL(", ").join(map(sql.Identifier, columns.split(",")))
    )
    with connection.cursor() as cursor, cursor.copy(statement) as stream:
        for line in lines:
            stream.write(line.rstrip() + "\n")
    connection.commit()
    return time.perf_counter() - started
