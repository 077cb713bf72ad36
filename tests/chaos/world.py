"""A small installation whose every part can be killed, cut off and restarted, and which somebody supervises."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, LiteralString

import psycopg
import redis
from celery import Celery
from celery.states import READY_STATES, SUCCESS
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tests.chaos.proxy import Wire
from tests.embedded.conftest import ROOT
from tests.server_directory import server_directory
from tests.warm.start import launch
from usage_tasks.coordination.clock import TestClock
from usage_tasks.demo.installation import CREDITS_PER_MINUTE
from usage_tasks.demo.replay import BEGIN
from usage_tasks.embedded.postgres import running_postgres
from usage_tasks.embedded.processes import child_process, free_port
from usage_tasks.embedded.redis import running_redis
from usage_tasks.health import check_heartbeats

AWAY: Final = (OperationalError, RedisError, OSError)
ANSWER_SECONDS: Final = 4
GIVE_UP_SECONDS: Final = 70
WORKERS: Final = {"work": "usage,maintenance", "work 2": "usage,maintenance"} | {
    "all": "usage,billing,stripe,directory,maintenance"
}
SILENCED: Final = {"work": ("prefork", 1), "threads": ("threads", 4)}
"""Workers behind a network that goes silent: their pool and its size."""
BEATS: Final = ("beat 1", "beat 2")


class World:
    """What runs. Processes that end are started again by `supervise`, which everything that waits calls."""

    def __init__(self, directory: Path, settings: Mapping[str, object] = MappingProxyType({})) -> None:
        """Without a test clock in `settings`, each process has a host's clock of its own: `set_clock`."""
        self.directory = directory
        self._settings = settings
        self._stacks: dict[str, ExitStack] = {}
        self._processes: dict[str, Any] = {}
        self._wanted: list[str] = []
        self.ports = {"redis": free_port(), "postgres": free_port()}
        self.start_server("redis")
        self.start_server("postgres")
        self.wire = Wire(self.ports["redis"])
        self.database_wire = Wire(self.ports["postgres"])
        self.redis_url = f"redis://127.0.0.1:{self.ports['redis']}/0"
        self.database_url = f"postgresql://postgres@127.0.0.1:{self.ports['postgres']}/usage"
        self.redis = redis.Redis.from_url(self.redis_url, socket_timeout=5)
        self.clock = TestClock(self.redis)
        self.app = Celery("chaos", broker=self.redis_url, backend=self.redis_url, set_as_current=False)
        self.app.conf.update(
            broker_transport_options={"global_keyprefix": "usage:", "socket_timeout": 2},
            result_backend_transport_options={"global_keyprefix": "usage:"},
            task_publish_retry=False,
        )
        self.environment = self._environment()
        self.clock.advance(BEGIN)
        self._migrate()

    def _environment(self) -> dict[str, str]:
        configuration = self.directory / "config.json"
        document = {
            "controllerSchedule": "1s",
            "resetUsageSchedule": "1s",
            "billingSyncSchedule": "",
            "creditsPerMinuteByWorkspaceClass": CREDITS_PER_MINUTE,
            "defaultSpendingLimit": {"forTeams": 500, "forUsers": 100},
            "testClock": True,
        } | dict(self._settings)
        configuration.write_text(json.dumps(document))
        credentials = self.directory / "stripe.json"
        credentials.write_text(json.dumps({"secretKey": "sk_test_nobody"}))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("USAGE_", "STRIPE_"))}
        return inherited | {
            "USAGE_CONFIG": str(configuration),
            "USAGE_STRIPE_CREDENTIALS_FILE": str(credentials),
            "USAGE_HEARTBEAT_DIR": str(self.directory / "heartbeats"),
            "DATABASE_URL": self.database_url,
            "REDIS_URL": f"redis://127.0.0.1:{self.wire.port}/0",
            "PYTHONPATH": str(ROOT),
            "CELERY_CONFIG_MODULE": "tests.chaos.celeryconfig",
        }

    def _migrate(self) -> None:
        command = [sys.executable, "-m", "usage_tasks.cli", "migrate"]
        log = self.directory / "migrate.log"
        with child_process(command, name="migrate", log=log, environment=self.environment, launcher=launch) as process:
            assert process.wait(60) == 0, log.read_text()

    def start_server(self, name: str) -> None:
        """Start a server on the port that it has had."""
        start = {"redis": running_redis, "postgres": running_postgres}[name]
        stack = self._stacks[name] = ExitStack()
        stack.enter_context(start(self.directory / name, {}, ports=lambda: self.ports[name]))

    def stop_server(self, name: str) -> None:
        """Stop a server; its data stays."""
        self._stacks.pop(name).close()

    def start(self, *names: str) -> None:
        """Start workers and beats, and have them supervised."""
        self._wanted += [name for name in names if name not in self._wanted]
        for name in names:
            self._start(name)

    def _start(self, name: str) -> None:
        if name in BEATS:
            arguments = ["-A", "tests.chaos.app", "beat", "--pidfile="]
        else:
            arguments = [
                "-A",
                "tests.chaos.app",
                "worker",
                f"--queues={WORKERS.get(name, WORKERS['work'])}",
                f"--hostname={name.replace(' ', '_')}@chaos",
            ]
            pool, concurrency = SILENCED.get(name, ("prefork", 1))
            arguments += [f"--pool={pool}", f"--concurrency={concurrency}", "--without-mingle", "--without-gossip"]
        program = ["-m", "celery"]
        if (clock := self._clock_file(name)).exists():
            program = ["-m", "tests.chaos.host_clock", str(clock), "celery"]
        stack = self._stacks[name] = ExitStack()
        self._processes[name] = stack.enter_context(
            child_process(
                [sys.executable, *program, *arguments, "--loglevel=INFO"],
                name=name,
                log=self.directory / f"{name}.log",
                environment=self.environment,
                stop_seconds_max=3,
                launcher=launch,
            )
        )

    def _clock_file(self, name: str) -> Path:
        return self.directory / f"{name}.clock"

    def set_clock(self, name: str, ahead: timedelta) -> None:
        """Set the clock of the host of a worker or a beat: before it starts, then as often as it is to jump."""
        fresh = self._clock_file(f"{name} fresh")
        fresh.write_text(str(ahead.total_seconds()))
        fresh.replace(self._clock_file(name))

    def supervise(self) -> None:
        """Start again whatever has ended, as every installation's supervisor does."""
        for name in self._wanted:
            if self._processes[name].poll() is not None:
                self._stacks.pop(name).close()
                self._start(name)

    def running(self) -> Sequence[str]:
        """Return the names of the workers and beats that are kept running."""
        return tuple(self._wanted)

    def pid(self, name: str) -> int:
        """The process of a worker or beat."""
        return int(self._processes[name].pid)

    def returncode(self, name: str) -> int | None:
        """How a process ended, None while it runs."""
        code: int | None = self._processes[name].poll()
        return code

    def children(self, name: str) -> list[int]:
        """The children of a worker."""
        told = Path(f"/proc/{self.pid(name)}/task/{self.pid(name)}/children")
        return [int(pid) for pid in told.read_text().split()] if told.exists() else []

    def kill(self, name: str, *, child: bool = False) -> None:
        """SIGKILL a worker with its children, one of its children alone, or a beat. Nobody starts it again here."""
        with suppress(ProcessLookupError):
            if not child:
                os.killpg(self.pid(name), signal.SIGKILL)
            for pid in self.children(name)[:1]:
                os.kill(pid, signal.SIGKILL)

    def retire(self, name: str) -> None:
        """Stop a process for good."""
        self._wanted.remove(name)
        self._stacks.pop(name).close()

    def send(self, task: str, task_id: str | None = None, **arguments: Any) -> str | None:
        """Send a task; answer its id, None where the broker did not take it."""
        try:
            sent = self.app.send_task(task, kwargs=arguments, task_id=task_id, queue=task.partition(".")[0])
        except AWAY:
            return None
        return str(sent.id)

    def ask(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Send a task until it is answered: what was lost is sent again, what was skipped or failed is asked anew."""
        give_up_at = time.monotonic() + GIVE_UP_SECONDS
        while time.monotonic() < give_up_at:
            sent = self.send(task, **arguments)
            answer = self.await_answer(sent, seconds=ANSWER_SECONDS) if sent else None
            if answer is not None and not answer.get("skipped"):
                return answer
            self.supervise()
            time.sleep(0.1)
        raise TimeoutError(f"{task}: no answer within {GIVE_UP_SECONDS} s\n{self.logs()}")

    def await_answer(self, task_id: str, *, seconds: float) -> dict[str, Any] | None:
        """Wait for a task's answer, None where there is none or it failed."""
        give_up_at = time.monotonic() + seconds
        while time.monotonic() < give_up_at:
            self.supervise()
            with suppress(*AWAY):
                meta = self.app.backend.get_task_meta(task_id)
                if meta["status"] in READY_STATES:
                    return (meta["result"] or {}) if meta["status"] == SUCCESS else None
            time.sleep(0.01)
        return None

    def wait(self, what: str, holds: Callable[[], bool], *, seconds: float = GIVE_UP_SECONDS) -> float:
        """Wait until something holds; answer how many seconds that took."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            self.supervise()
            with suppress(*AWAY, psycopg.Error):
                if holds():
                    return time.monotonic() - started
            time.sleep(0.02)
        raise TimeoutError(f"{what}: not within {seconds} s\n{self.logs()}")

    def query(self, statement: LiteralString, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with psycopg.connect(self.database_url, connect_timeout=2) as connection:
            return connection.execute(statement, values).fetchall()

    def unhealthy(self, *, live: bool = False) -> Mapping[str, str]:
        """The problems that the probes find, by process."""
        heartbeats = self.directory / "heartbeats"
        found = [*check_heartbeats(heartbeats, "worker", live=live), *check_heartbeats(heartbeats, "beat", live=live)]
        return {name: problem for name, problem in found if problem}

    def logs(self) -> str:
        """The ends of the logs."""
        return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in sorted(self.directory.glob("*.log")))

    def close(self) -> None:
        """Stop everything, servers last."""
        self.wire.mend()
        for name in [*self._wanted, *(name for name in ("redis", "postgres") if name in self._stacks)]:
            self._stacks.pop(name).close()
        self.wire.close()
        self.database_wire.close()
        self.app.close()
        self.redis.close()


@contextmanager
def running_world(
    *names: str,
    settings: Mapping[str, object] = MappingProxyType({}),
    clocks: Mapping[str, timedelta] = MappingProxyType({}),
) -> Iterator[World]:
    """A world with these workers and beats; `clocks` sets those of their hosts."""
    with server_directory() as directory:
        world = World(directory, settings)
        for name, ahead in clocks.items():
            world.set_clock(name, ahead)
        try:
            world.start(*names)
            yield world
        finally:
            world.close()
