"""Healthy installations of every shape, as real processes: the doctor prints one line."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import redis
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from tests.commands.doctor.messages import send_aged
from tests.server_directory import server_directory
from tests.stripe_world.world import StripeWorld
from tests.warm.start import launch
from usage_tasks.cli import cli
from usage_tasks.embedded.binaries import find_postgres_directory
from usage_tasks.embedded.processes import child_process
from usage_tasks.embedded.redis import running_redis
from usage_tasks.runtime import runtime

pytestmark = pytest.mark.timeout(180)

SECONDS_MAX: Final = 60
SECRETS: Final = {"STRIPE_SECRET_KEY": "sk_test_simulator", "STRIPE_WEBHOOK_SECRET": "whsec_not_a_key"}
DIRECTORY_KEY: Final = {"USAGE_DIRECTORY_KEY": "k" * 64}
NOTHING: Final = re.compile(r"[0-9]+ checks, nothing to do")


@dataclass
class Host:
    """Runs the commands and processes of an installation, each with an environment of its own."""

    environment: dict[str, str]
    directory: Path
    world: StripeWorld
    monkeypatch: pytest.MonkeyPatch
    stack: ExitStack = field(default_factory=ExitStack)

    def run(self, *arguments: str, **variables: str | None) -> str:
        """Run a command here; return what it writes, and its exit code unless that is 0."""
        self.world.advance(datetime.now(UTC))  # its clock stands still
        with self.monkeypatch.context() as patch:
            for name in os.environ.keys() - self.variables(variables).keys():
                patch.delenv(name)
            for name, value in self.variables(variables).items():
                patch.setenv(name, value)
            runtime.cache_clear()
            done = CliRunner().invoke(cli, arguments)
            runtime.cache_clear()
        return done.stdout + (f"exit code {done.exit_code}: {done.exception!r}" if done.exit_code else "")

    def doctor(self, **variables: str | None) -> str:
        """Return what the doctor writes, without the lines of the log, which go there too."""
        lines = self.run("doctor", **variables).splitlines()
        return "\n".join(line for line in lines if "stripe.called" not in line)

    def start(self, name: str, *options: str, **variables: str | None) -> Any:
        """Start Celery and wait until it is ready."""
        log = self.directory / f"{name}.log"
        return self.stack.enter_context(
            child_process(
                [sys.executable, "-m", "celery", "-A", "usage_tasks", *options],
                name=name,
                log=log,
                environment=self.variables(variables),
                ready=lambda: log.exists() and any(word in log.read_text() for word in (" ready.", "beat: Starting")),
                ready_seconds_max=SECONDS_MAX,
                stop_seconds_max=1,
                launcher=launch,
            )
        )

    def worker(self, name: str, queues: str, *options: str, **variables: str | None) -> Any:
        """Start a worker of some queues."""
        return self.start(name, "worker", "-Q", queues, "--loglevel=INFO", "--pool=threads", *options, **variables)

    def beat(self, **variables: str | None) -> Any:
        """Start a beat."""
        return self.start("beat", "beat", "--pidfile=", "--loglevel=INFO", **variables)

    def wait_for(self, statement: str) -> None:
        """Wait until a question is answered with true."""
        with psycopg.connect(self.environment["DATABASE_URL"], autocommit=True) as connection:
            wait_until(lambda: (connection.execute(statement.encode()).fetchone() or (False,))[0])

    def variables(self, changed: Mapping[str, str | None]) -> dict[str, str]:
        return {name: value for name, value in {**self.environment, **changed}.items() if value is not None}


def wait_until(holds: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < give_up_at, "it did not come about"
        time.sleep(0.1)


JOBS_RAN: Final = "SELECT count(DISTINCT job) >= 2 FROM job_run WHERE outcome = 'done'"


@pytest.fixture
def host(
    environment: dict[str, str], world: StripeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    """An installation with Stripe, schedules of seconds, and no process yet."""
    made = Host(
        world=world,
        monkeypatch=monkeypatch,
        environment=environment
        | SECRETS
        | {
            "USAGE_TEST_CLOCK": "false",
            "USAGE_CONTROLLER_SCHEDULE": "2s",
            "USAGE_RESET_USAGE_SCHEDULE": "2s",
            "USAGE_STRIPE_API_BASE": world.url,
            "USAGE_STRIPE_PRICES": json.dumps({"teamUsagePriceIds": world.price_by_currency}),
        },
        directory=tmp_path,
    )
    with made.stack:
        yield made


def empty(host: Host) -> None:
    """Take away what the database's template has, and migrate for real."""
    with psycopg.connect(host.environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    assert "price versions are new" in host.run("migrate")


def test_one_host_with_all_processes(host: Host) -> None:
    host.environment |= DIRECTORY_KEY | {"USAGE_HEARTBEAT_DIR": str(host.directory / "beats")}
    empty(host)
    host.worker("all", "usage,billing,stripe,maintenance,directory")
    host.beat()
    assert NOTHING.fullmatch(host.doctor())
    host.wait_for(JOBS_RAN)
    assert NOTHING.fullmatch(host.doctor())
    assert "maintenance-directory@" in host.run("doctor", "--all")


def test_a_container_for_each_process_with_the_secrets_that_it_needs(host: Host) -> None:
    empty(host)
    without = dict.fromkeys(SECRETS)
    beats = {name: str(host.directory / f"beats of {name}") for name in ("usage", "beat", "nobody")}
    host.worker("usage", "usage", "--hostname=usage@container-1", USAGE_HEARTBEAT_DIR=beats["usage"], **without)
    host.worker("rest", "billing,stripe,maintenance,directory", "--hostname=rest@container-2", **DIRECTORY_KEY)
    host.beat(USAGE_HEARTBEAT_DIR=beats["beat"], **without)
    with psycopg.connect(host.environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            "INSERT INTO directory_user (user_id, email_digest, administrator, deleted, observed_at, actor)"
            " VALUES (gen_random_uuid(), repeat('a', 64), false, false, now(), 'service:tests')"
        )
    host.wait_for(JOBS_RAN)
    for heartbeats in (None, *beats.values()):
        assert NOTHING.fullmatch(host.doctor(USAGE_HEARTBEAT_DIR=heartbeats, **without)), heartbeats


def test_a_fresh_installation_before_its_first_process(host: Host) -> None:
    host.environment["USAGE_CONTROLLER_SCHEDULE"] = host.environment["USAGE_RESET_USAGE_SCHEDULE"] = "24h"
    host.environment |= DIRECTORY_KEY
    empty(host)
    assert NOTHING.fullmatch(host.doctor())


def test_after_a_restore_with_an_empty_redis(host: Host, administer: Callable[..., None], tmp_path: Path) -> None:
    host.environment |= DIRECTORY_KEY | {"USAGE_CONTROLLER_SCHEDULE": "24h", "USAGE_RESET_USAGE_SCHEDULE": "24h"}
    empty(host)
    source = make_url(host.environment["DATABASE_URL"])
    restored = f"{source.database}_restored"
    administer("CREATE DATABASE {}", restored)
    try:
        target = source.set(database=restored).render_as_string(hide_password=False)
        binaries, dump = find_postgres_directory(host.environment), tmp_path / "dump.sql"
        plain = source.render_as_string(hide_password=False)
        subprocess.run([binaries / "pg_dump", "--file", dump, plain], check=True, capture_output=True)
        restore = [str(binaries / "psql"), "--quiet", "--set=ON_ERROR_STOP=1", "--file", str(dump), target]
        subprocess.run(restore, check=True, capture_output=True)
        with redis.Redis.from_url(host.environment["REDIS_URL"]) as client:
            client.flushdb()
        host.environment["DATABASE_URL"] = target
        assert NOTHING.fullmatch(host.doctor())
        with ExitStack() as host.stack:
            host.worker("restored", "usage,billing,stripe,maintenance,directory")
            assert NOTHING.fullmatch(host.doctor())
    finally:
        administer("DROP DATABASE {} WITH (FORCE)", restored)


def test_a_redis_that_is_run_by_a_service_which_refuses_config(host: Host) -> None:
    host.environment |= DIRECTORY_KEY
    empty(host)
    with server_directory() as directory, running_redis(directory, host.environment) as url:
        with redis.Redis.from_url(url) as client:
            client.config_set("appendonly", "no")
            client.execute_command(
                "ACL", "SETUSER", "usage", "on", ">staple", "~*", "&*", "+@all", "-config", "-@dangerous", "+info"
            )
        named = make_url(url).set(username="usage", password="staple")
        assert NOTHING.fullmatch(host.doctor(REDIS_URL=named.render_as_string(hide_password=False)))
        with redis.Redis.from_url(url) as client:
            client.execute_command("ACL", "SETUSER", "usage", "-info")
        assert NOTHING.fullmatch(host.doctor(REDIS_URL=named.render_as_string(hide_password=False)))


def test_an_installation_without_stripe_and_without_its_workers(host: Host) -> None:
    host.environment = {name: value for name, value in host.environment.items() if "STRIPE" not in name}
    empty(host)
    for task in ("billing.sync", "stripe.backfill_events"):  # the ticks of a beat
        send_aged(host.environment["REDIS_URL"], task, seconds_ago=3600)
    with psycopg.connect(host.environment["DATABASE_URL"], autocommit=True) as connection:
        late = "UPDATE job_run SET slot = slot - interval '3 hours' WHERE job ~ '^(billing|stripe)'"
        assert connection.execute(late).rowcount > 3
    assert NOTHING.fullmatch(host.doctor())
    host.environment["STRIPE_SECRET_KEY"] = "sk_test_not_a_key"
    assert "queues: billing: 1 message and nobody takes them" in host.doctor()
