"""`python -m tests.benchmarks.sync`: 10,000 paying accounts, all changed, by one real worker with 16 threads.

The stand-in is a separate process. The run at a rate (the settings' default unless BENCH_CALLS_PER_SECOND is set) is
compared with the slower of that rate and the stand-in's own ceiling, which bare sockets measure first. A run without a
rate shows a worker's maximum, beside one process that calls by the official SDK from 16 threads and does nothing else.
Worker, stand-in, database and broker share the machine's cores.
"""

import http.client
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import redis
import requests
import stripe

from tests.benchmarks import sdk
from tests.benchmarks import simulator as peer
from tests.benchmarks.measure import Figure, cpu_seconds, median, show
from tests.stripe_world.population import add_paying, charge_all
from usage_tasks.celery import app
from usage_tasks.coordination.clock import TestClock
from usage_tasks.coordination.pacer import NAME as PACER
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.embedded.processes import free_port
from usage_tasks.embedded.servers import running_servers
from usage_tasks.services.metering.decide_reports import report_quantities
from usage_tasks.settings import Settings
from usage_tasks.settings.values import CALLS_PER_SECOND_MAX
from usage_tasks.storage import migrate
from usage_tasks.storage.engine import Database

ACCOUNTS = int(os.environ.get("BENCH_ACCOUNTS", "10000"))
RATE = int(os.environ.get("BENCH_CALLS_PER_SECOND", Settings.model_fields["stripe_calls_per_second"].default))
FROZEN = "2026-01-31T10:00:00Z"
BEGIN = datetime(2026, 1, 31, 10, tzinfo=UTC)
SHORTFALL_MAX = 0.15
FAILING_EVERY = 100
TRANSIENT = 0.05
RESULTS = Path(".data") / "bench-sync.json"
EVENT_NAME, KEY = "usage_credits", "sk_test_benchmark"
_RUN_SECONDS_MAX = 550
_CALLS = re.compile(r'usage_stripe_call_duration_seconds_count{operation="([a-z_.]+)",outcome="([a-z]+)"} ([0-9.e+]+)')


@dataclass(kw_only=True)
class Installation:
    """The servers, the stand-in with its customers, and a worker for as long as a run lasts."""

    database: Database
    redis: "redis.Redis"
    url: str
    environment: dict[str, str]
    customers: dict[AttributionId, str]
    at: datetime = BEGIN
    metrics_port: int = 0
    process_id: int = 0

    @contextmanager
    def worker(self, calls_per_second: int) -> Iterator[None]:
        """One worker process with 16 threads that listens."""
        self.redis.delete(f"usage:{PACER}")
        self.metrics_port = free_port()
        command = [sys.executable, "-m", "celery", "-A", "usage_tasks", "worker", "-Q", "billing", "--loglevel=WARNING"]
        command += ["--pool=threads", "--concurrency=16", "--without-gossip", "--without-mingle"]
        variables = {
            "USAGE_STRIPE_CALLS_PER_SECOND": str(calls_per_second),
            "USAGE_METRICS_PORT": str(self.metrics_port),
        }
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command, env=self.environment | variables, stdout=log, stderr=log)
            self.process_id = process.pid
            try:
                while not app.control.ping(timeout=1, limit=1):
                    if process.poll() is not None:
                        log.seek(0)
                        raise RuntimeError(log.read().decode()[-2000:])
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)

    def change_all(self) -> float:
        """Charge every account, an hour later than before; return how long the one statement of reports takes."""
        self.at += timedelta(hours=1)
        TestClock(self.redis).advance(self.at)
        moved = {"advance_to": int(self.at.timestamp())}
        requests.post(f"{self.url}/_simulator/clock", json=moved, timeout=30).raise_for_status()
        with self.database.transaction() as connection:
            charge_all(connection, 100, at=self.at)
        started = time.perf_counter()
        with self.database.transaction() as connection:
            added = report_quantities(connection, at=self.at)
        if added != len(self.customers):
            raise RuntimeError(f"{added} reports for {len(self.customers)} accounts")
        return time.perf_counter() - started

    def run(self, task: str) -> tuple[Any, float]:
        """Run a task to its end. Return its result or its error, and how long it took."""
        started = time.perf_counter()
        sent = app.send_task(task)
        answer = sent.get(timeout=_RUN_SECONDS_MAX, propagate=False)
        return answer, time.perf_counter() - started

    def calls(self, operation: str = "meter_events.create") -> Counter[str]:
        """Return the worker's own count of an operation's calls, by outcome."""
        text = requests.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).text
        found = Counter[str]()
        for name, outcome, count in _CALLS.findall(text):
            if name == operation:
                found[outcome] += int(float(count))
        return found

    def states(self) -> dict[str, int]:
        """How many of the latest reports are in each state."""
        latest = "SELECT state, count(*) FROM meter_report WHERE as_of = %(at)s GROUP BY state"
        with self.database.transaction() as connection:
            rows = connection.exec_driver_sql(latest, {"at": self.at}).all()
        return {str(state): int(count) for state, count in rows}


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    bound: str,
    holds: bool,
    beside: str = "",
    beside_value: float | None = None,
) -> Figure:
    """One figure, measured once."""
    return Figure(
        name=name,
        value=value,
        unit=unit,
        beside=beside,
        beside_value=beside_value,
        bound=bound,
        holds=holds,
        rounds=[value],
    )


def bench_all_changed(installation: Installation, rate: int, ceiling: float, *, bounded: bool) -> Iterator[Figure]:
    """All accounts changed: reported in one statement, then sent by the worker.

    `bounded`: the bound is within 15 % of the slower of rate and ceiling.
    """
    label = f"{rate} calls/s" if bounded else "no rate to keep"
    statement_seconds = installation.change_all()
    with installation.worker(rate):
        cpu = cpu_seconds(installation.process_id)
        answer, seconds = installation.run("billing.send_meter_events")
        cpu = cpu_seconds(installation.process_id) - cpu
        calls = installation.calls()
        before = sum(calls.values())
        idle, _ = installation.run("billing.send_meter_events")
        more = sum(installation.calls().values()) - before
    everybody = answer.get("accepted") == ACCOUNTS and installation.states() == {"accepted": ACCOUNTS}
    slower = min(rate, ceiling)
    synced = ACCOUNTS / seconds
    yield figure(
        f"{label}: accounts synced",
        synced,
        "/s",
        beside="slower of rate and raw ceiling" if bounded else "the SDK alone, one process",
        beside_value=slower,
        bound="within 15 %, all in" if bounded else "all in",
        holds=everybody and (synced >= (1 - SHORTFALL_MAX) * slower or not bounded),
    )
    per_account = sum(calls.values()) / ACCOUNTS
    yield figure(
        f"{label}: calls per synced account",
        per_account,
        "calls",
        bound="1",
        holds=per_account == 1,
    )
    yield figure(
        f"{label}: CPU of the worker",
        1000 * cpu / ACCOUNTS,
        "ms/account",
        bound="shown",
        holds=True,
    )
    yield figure(
        f"{label}: the reports, in one statement",
        statement_seconds,
        "s",
        bound="under 10 s",
        holds=statement_seconds < 10,
    )
    yield figure(
        f"{label}: none changed, calls",
        more,
        "calls",
        bound="0",
        holds=more == 0 and idle.get("accepted") == 0,
    )


def bench_failing(installation: Installation, rate: int) -> Iterator[Figure]:
    """1 % of the customers are deleted, 5 % of the calls fail temporarily."""
    client = stripe.StripeClient(KEY, base_addresses={"api": installation.url})
    gone = list(installation.customers.values())[::FAILING_EVERY]
    for customer in gone:
        client.v1.customers.delete(customer)
    installation.change_all()
    rule = {"kind": "server_error", "path": "/v1/billing/meter_events", "probability": TRANSIENT, "seed": 1}
    requests.post(f"{installation.url}/_simulator/faults", json=rule, timeout=5).raise_for_status()
    with installation.worker(rate):
        answer, seconds = installation.run("billing.send_meter_events")
        calls = installation.calls()
        requests.delete(f"{installation.url}/_simulator/faults", json={}, timeout=5).raise_for_status()
        TestClock(installation.redis).advance(installation.at + timedelta(hours=1))
        drift, drift_seconds = installation.run("billing.drift_report")
    states = installation.states()
    sys.stderr.write(f"the run ended in: {answer!r}\nthe drift report ended in: {str(drift)[:200]}\n")
    told = f"{len(gone)} parked, {calls['retryable']} put off, {ACCOUNTS - len(gone)} accepted"
    yield figure(
        f"1 % failing, 5 % for now, {rate} calls/s: others in",
        states.get("accepted", 0),
        "accounts",
        beside="parked",
        beside_value=states.get("parked", 0),
        bound="all others in, the failing parked, the run in error with counts",
        holds=states == {"accepted": ACCOUNTS - len(gone), "parked": len(gone)} and told in str(answer),
    )
    yield figure(
        "the same: calls per synced account",
        sum(calls.values()) / states.get("accepted", 1),
        "calls",
        beside="put off",
        beside_value=calls["retryable"],
        bound="under 1.1",
        holds=sum(calls.values()) < 1.1 * states.get("accepted", 1),
    )
    yield figure(
        "the same: all at once, and again what was put off",
        seconds,
        "s",
        beside="at the rate alone",
        beside_value=sum(calls.values()) / rate,
        bound="shown",
        holds=True,
    )
    yield figure(
        "drift report over them: astray are the parked",
        drift_seconds,
        "s",
        beside="at the rate alone",
        beside_value=ACCOUNTS / rate,
        bound=f"{len(gone)} of {ACCOUNTS}",
        holds=f"{len(gone)} of {ACCOUNTS} accounts astray" in str(drift),
    )


@contextmanager
def running_installation(directory: Path) -> Iterator[Installation]:
    """Servers, a stand-in in a process of its own, and accounts with their customers."""
    with (
        running_servers(directory, os.environ) as servers,
        peer.simulator(f"--frozen-time={FROZEN}") as (port, _),
    ):
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE bench_sync")
        server = servers.database_url.rpartition("/")[0]
        url = server.replace("postgresql://", "postgresql+psycopg://") + "/bench_sync"
        migrate.upgrade(url)
        database = Database(url)
        price = _make_price(f"http://127.0.0.1:{port}")
        customers = _make_customers(port)
        with database.transaction() as opened:
            add_paying(opened, customers, at=BEGIN)
        environment = {
            "DATABASE_URL": f"{server}/bench_sync",
            "REDIS_URL": servers.redis_url,
            "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"small": 0.1}',
            "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 500, "forUsers": 100}',
            "USAGE_TEST_CLOCK": "true",
            "USAGE_STRIPE_API_BASE": f"http://127.0.0.1:{port}",
            "USAGE_STRIPE_METER_EVENT_NAME": EVENT_NAME,
            "USAGE_STRIPE_PRICES": f'{{"teamUsagePriceId": "{price}"}}',
            "STRIPE_SECRET_KEY": KEY,
        }
        os.environ.update(environment)  # this process speaks to the worker by its Celery app
        app.conf["broker_url"] = app.conf["result_backend"] = servers.redis_url
        client = redis.Redis.from_url(servers.redis_url)
        yield Installation(
            database=database,
            redis=client,
            url=f"http://127.0.0.1:{port}",
            environment=dict(os.environ),
            customers=customers,
        )
        database.dispose()


def _make_price(url: str) -> str:
    client = stripe.StripeClient(KEY, base_addresses={"api": url})
    meter = client.v1.billing.meters.create(
        {"display_name": "Credits", "event_name": EVENT_NAME, "default_aggregation": {"formula": "last"}}
    )
    made = client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount_decimal": Decimal("1.5"),
            "product_data": {"name": "Usage"},
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
        }
    )
    return str(made.id)


def _make_customers(port: int) -> dict[AttributionId, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    names = [AttributionId(f"team:{UUID(int=number)}") for number in range(ACCOUNTS)]
    return {name: peer.post(connection, "/v1/customers", {"name": name}) for name in names}


def main() -> int:
    """Print the table; return 1 if a bound does not hold."""
    stripe.enable_telemetry = False
    RESULTS.parent.mkdir(exist_ok=True)
    rounds, microseconds = peer.measure(f"--frozen-time={FROZEN}")
    ceiling = median(rounds)
    by_sdk = sdk.measure()
    client_ceiling = median(by_sdk)
    sys.stderr.write(f"the stand-in's raw ceiling: {ceiling:,.0f} events/s, {microseconds:,.0f} us CPU an event\n")
    sys.stderr.write(f"its ceiling for one process of the SDK: {client_ceiling:,.0f} events/s\n")
    figures = [
        figure(
            "the stand-in's ceiling, raw",
            ceiling,
            "/s",
            beside="for one process of the SDK",
            beside_value=client_ceiling,
            bound="shown",
            holds=True,
        )
    ]
    with (
        tempfile.TemporaryDirectory(prefix="usage-bench-") as directory,
        running_installation(Path(directory)) as installation,
    ):
        for run in (
            bench_all_changed(installation, RATE, ceiling, bounded=True),
            bench_all_changed(installation, CALLS_PER_SECOND_MAX, client_ceiling, bounded=False),
            bench_failing(installation, RATE),
        ):
            for each in run:
                figures.append(each)
                sys.stderr.write(f"{each.name}: {each.value:.4g} {each.unit} ({each.bound})\n")
    show(figures, RESULTS)
    return 0 if all(each.holds for each in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
