"""A whole installation on loopback: every process that a production has, started and stopped as one."""

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psycopg
import requests
from rich.console import Console

from usage_tasks.celery import app
from usage_tasks.coordination.clock import TestClock
from usage_tasks.coordination.keyspace import open_redis
from usage_tasks.demo.stand_in import SECRET_KEY, WEBHOOK_SECRET, StandIn
from usage_tasks.embedded.processes import StartError, child_process, free_port, log_tail, wait_for_end
from usage_tasks.embedded.servers import running_servers
from usage_tasks.settings import load_settings
from usage_tasks.settings.values import CALLS_PER_SECOND_MAX

# usage prices in credits a minute; the clusters' classes are CPU counts
CREDITS_PER_MINUTE: Final = {"small": 0.005, "medium": 0.0125, "large": 0.04, "xlarge": 0.1}
POOLS: Final = {
    "usage": ["--pool=prefork", "--concurrency=1"],
    "billing": ["--pool=threads", "--concurrency=4"],
    "stripe": ["--pool=threads", "--concurrency=4"],
    "maintenance": ["--pool=prefork", "--concurrency=1"],
    "directory": ["--pool=threads", "--concurrency=1"],
}
# The variables by which commands reach a demo that goes on running; its processes get the first four.
_SHOWN: Final = ("DATABASE_URL", "REDIS_URL", "USAGE_CONFIG", "USAGE_HEARTBEAT_DIR")
_READY_SECONDS_MAX: Final = 60


class ForeignDatabaseError(Exception):
    """The database that DATABASE_URL names holds other data than the demo's."""


@dataclass(kw_only=True)
class Installation:
    """The running processes: their addresses, and the handles to stop and start a worker."""

    directory: Path
    environment: dict[str, str]
    stand_in: StandIn
    clock: TestClock
    database_url: str
    addresses: dict[str, str] = field(default_factory=dict)
    _workers: dict[str, ExitStack] = field(default_factory=dict)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def variables_file(self) -> Path:
        """A file for a shell, with the variables by which commands reach this installation."""
        return self.directory / "env"

    def write_variables(self) -> None:
        """Write the file, readable for its owner only: it holds the keys of the stand-in, like the credentials."""
        shown = {name: self.environment[name] for name in _SHOWN} | {
            "USAGE_STRIPE_API_BASE": self.stand_in.url,
            "STRIPE_SECRET_KEY": SECRET_KEY,
            "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
        }
        self.variables_file.touch(mode=0o600)
        self.variables_file.write_text("".join(f"export {name}={shlex.quote(it)}\n" for name, it in shown.items()))

    def start_worker(self, queue: str) -> None:
        """Start the worker of a queue."""
        metrics_port = free_port()
        multiprocess = self.directory / "metrics" / f"{queue}-{secrets.token_hex(4)}"
        multiprocess.mkdir(parents=True)
        stack = ExitStack()
        process = stack.enter_context(
            child_process(
                _celery(
                    "worker",
                    f"--queues={queue}",
                    f"--hostname={queue}@demo",
                    *POOLS[queue],
                    "--task-events",
                    "--without-mingle",
                    "--without-gossip",
                    "--loglevel=INFO",
                ),
                name=f"worker {queue}",
                log=self.directory / f"worker-{queue}.log",
                environment=self.environment
                | {"USAGE_METRICS_PORT": str(metrics_port), "PROMETHEUS_MULTIPROC_DIR": str(multiprocess)},
                stop_seconds_max=5,
            )
        )
        self._workers[queue], self._processes[queue] = stack, process
        self.addresses[f"metrics {queue}"] = f"http://127.0.0.1:{metrics_port}/metrics"

    def kill_worker(self, queue: str, signal_number: int) -> None:
        """Send the worker of a queue a signal, such as SIGKILL, and start it again."""
        self._processes[queue].send_signal(signal_number)
        self._workers.pop(queue).close()
        self.start_worker(queue)

    def await_workers(self) -> None:
        """Wait until every worker answers."""
        expected = {f"{queue}@demo" for queue in POOLS}
        answers: list[dict[str, Any]] = []
        for _ in range(_READY_SECONDS_MAX):
            answers = app.control.ping(timeout=1, limit=len(expected)) or []
            if expected <= {name for answer in answers for name in answer}:
                return
            for queue, process in self._processes.items():
                if process.poll() is not None:
                    raise self._not_started(queue, "ended")
        answered = {name for answer in answers for name in answer}
        silent = next(queue for queue in POOLS if f"{queue}@demo" not in answered)
        raise self._not_started(silent, f"gave no answer to {_READY_SECONDS_MAX} questions")

    def _not_started(self, queue: str, problem: str) -> StartError:
        log = self.directory / f"worker-{queue}.log"
        return StartError(f"worker {queue} {problem}", output=log_tail(log), advice=f"Its log is {log}.")

    def stop_workers(self) -> None:
        """Stop every worker."""
        while self._workers:
            self._workers.popitem()[1].close()


@contextmanager
def running_installation(
    directory: Path, environ: Mapping[str, str], *, clock_start: datetime, console: Console
) -> Iterator[Installation]:
    """Run servers, stand-in, receiver, a worker for each queue, beat and Flower until the block ends.

    Raises StartError if something does not start, ForeignDatabaseError rather than touch somebody's data.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        console.print("starting PostgreSQL and Valkey ...")
        servers = stack.enter_context(running_servers(directory, environ))
        _check_database(servers.database_url)
        receiver_port = free_port()
        stand_in = stack.enter_context(_running_stand_in(directory, clock_start, receiver_port))
        environment = _environment(directory, environ, stand_in, receiver_port) | {
            "DATABASE_URL": servers.database_url,
            "REDIS_URL": servers.redis_url,
        }
        clock = TestClock(open_redis(load_settings(environment)))
        clock.advance(clock_start)
        installation = Installation(
            directory=directory,
            environment=environment,
            stand_in=stand_in,
            clock=clock,
            database_url=servers.database_url,
        )
        installation.write_variables()
        os.environ.update(environment)  # this process speaks to the system by its Celery app
        _migrate(directory, environment)
        console.print("starting the receiver, a worker for each queue, beat and Flower ...")
        for start in (_running_receiver, _running_beat, _running_flower):
            stack.enter_context(start(installation))
        stack.callback(installation.stop_workers)
        for queue in POOLS:
            installation.start_worker(queue)
        installation.await_workers()
        yield installation


def _celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "usage_tasks", *arguments]


def _check_database(url: str) -> None:
    with psycopg.connect(url) as connection:
        if connection.execute("SELECT to_regclass('workspace_instance')").fetchone() == (None,):
            return
        foreign = connection.execute(
            "SELECT 1 FROM workspace_instance WHERE workspace_id NOT LIKE 'mc-ws-%' LIMIT 1"
        ).fetchone()
    if foreign:
        raise ForeignDatabaseError(
            "DATABASE_URL names a database with sessions that are not the demo's: unset it, or name an empty one"
        )


def _environment(directory: Path, environ: Mapping[str, str], stand_in: StandIn, receiver_port: int) -> dict[str, str]:
    """Write the configuration and credentials files once, and name them to every process."""
    configuration = directory / "config.json"
    credentials = directory / "credentials.json"
    held = json.loads(configuration.read_text()) if configuration.exists() else {"stripePrices": _prices(stand_in)}
    configuration.write_text(
        json.dumps(
            {
                "controllerSchedule": "5s",
                "resetUsageSchedule": "10s",
                "billingSyncSchedule": "10s",
                "creditsPerMinuteByWorkspaceClass": CREDITS_PER_MINUTE,
                "defaultSpendingLimit": {"forTeams": 500, "forUsers": 100},
                "stripeCredentialsFile": str(credentials),
                "stripeApiBase": stand_in.url,
                "stripeCallsPerSecond": CALLS_PER_SECOND_MAX,
                "stripePrices": held["stripePrices"],
                "server": {"address": "127.0.0.1", "port": receiver_port},
                "testClock": True,
            },
            indent=2,
        )
    )
    credentials.write_text(json.dumps({"secretKey": SECRET_KEY, "webhookKey": WEBHOOK_SECRET}))
    credentials.chmod(0o600)
    inherited = {name: value for name, value in environ.items() if not name.startswith(("USAGE_", "STRIPE_"))}
    return inherited | {"USAGE_CONFIG": str(configuration), "USAGE_HEARTBEAT_DIR": str(directory / "heartbeats")}


def _prices(stand_in: StandIn) -> dict[str, dict[str, str]]:
    made = stand_in.make_prices()
    return {f"{kind}UsagePriceIds": ids for kind, ids in made.items()}


@contextmanager
def _running_stand_in(directory: Path, clock_start: datetime, receiver_port: int) -> Iterator[StandIn]:
    port = free_port()
    stand_in = StandIn(f"http://127.0.0.1:{port}")
    with child_process(
        [
            sys.executable,
            "-m",
            "usage_tasks.stripe_simulator",
            f"--port={port}",
            f"--state={directory / 'stripe.sqlite'}",
            f"--frozen-time={clock_start.isoformat()}",
            f"--webhook-url=http://127.0.0.1:{receiver_port}/webhook",
            f"--webhook-secret={WEBHOOK_SECRET}",
        ],
        name="Stripe's stand-in",
        log=directory / "stripe.log",
        ready=lambda: _answers(f"{stand_in.url}/_simulator/health"),
    ):
        yield stand_in


@contextmanager
def _running_receiver(installation: Installation) -> Iterator[None]:
    configured = json.loads(Path(installation.environment["USAGE_CONFIG"]).read_text())["server"]
    url = f"http://{configured['address']}:{configured['port']}"
    with child_process(
        [sys.executable, "-m", "usage_tasks.cli", "webhook"],
        name="webhook receiver",
        log=installation.directory / "receiver.log",
        environment=installation.environment,
        ready=lambda: _answers(f"{url}/healthz"),
        orphan_signal=signal.SIGTERM,  # it has a child of its own to take along, and ends soon
    ):
        installation.addresses["webhook receiver"] = f"{url}/webhook"
        yield


@contextmanager
def _running_beat(installation: Installation) -> Iterator[None]:
    with child_process(
        _celery("beat", "--pidfile=", "--loglevel=INFO"),
        name="beat",
        log=installation.directory / "beat.log",
        environment=installation.environment,
    ):
        yield


@contextmanager
def _running_flower(installation: Installation) -> Iterator[None]:
    port, password = free_port(), secrets.token_urlsafe(9)
    url = f"http://127.0.0.1:{port}"
    with child_process(
        [sys.executable, "-m", "usage_tasks.cli", "flower", f"--port={port}"],
        name="Flower",
        log=installation.directory / "flower.log",
        environment=installation.environment | {"FLOWER_BASIC_AUTH": f"demo:{password}"},
        ready_seconds_max=_READY_SECONDS_MAX,
        stop_seconds_max=5,  # it would wait for each worker's answer, and the workers have ended
    ):
        installation.addresses["Flower"] = f"{url} (user demo, password {password})"
        yield


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=1).ok
    except requests.ConnectionError:
        return False


def _migrate(directory: Path, environment: Mapping[str, str]) -> None:
    with child_process(
        [sys.executable, "-m", "usage_tasks.cli", "migrate"],
        name="migrate",
        log=directory / "migrate.log",
        environment=environment,
    ) as process:
        if wait_for_end(process, seconds_max=60) != 0:
            raise StartError(
                "migrate failed", output=log_tail(directory / "migrate.log"), advice="See the message above."
            )
