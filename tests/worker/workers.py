"""Real workers of the application, with the tasks of the chaos suite, and what they leave behind."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
from celery import Celery

from tests.client.test_client import make_sender
from tests.warm.start import launch
from usage_tasks.embedded.processes import child_process

SECONDS_MAX: Final = 40
OURS: Final = "tests.chaos.app"


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Starts workers on the servers of a test, and sends to them."""

    environment: dict[str, str]
    directory: Path
    sender: Celery
    redis: "redis.Redis"
    stack: ExitStack = field(default_factory=ExitStack)
    processes: dict[str, Any] = field(default_factory=dict)

    def start(
        self, name: str, *options: str, queues: str = "maintenance", app: str = OURS, hostname: str | None = ""
    ) -> Any:
        """Start a worker and wait until it is ready; return its process. With `hostname` None it names itself."""
        log = self.directory / f"{name}.log"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", f"--queues={queues}"]
        command += [] if hostname is None else [f"--hostname={hostname or f'{name}@test'}"]
        command += ["--without-mingle", "--without-gossip", "--loglevel=INFO", *options]
        self.processes[name] = self.stack.enter_context(
            child_process(
                command,
                name=name,
                log=log,
                environment=self.environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                ready=lambda: log.exists() and " ready." in log.read_text(),
                ready_seconds_max=SECONDS_MAX,
                stop_seconds_max=1,
                launcher=launch,
            )
        )
        return self.processes[name]

    def send(self, task: str, queue: str = "maintenance", **options: Any) -> str:
        """Send a task; return its id."""
        return str(self.sender.send_task(task, queue=queue, **options).id)

    def log(self, name: str) -> str:
        """Return what a worker has logged."""
        return (self.directory / f"{name}.log").read_text()

    def count(self, key: str) -> int:
        """Return a counter in Redis."""
        held: Any = self.redis.get(key)
        return int(held or 0)


def make_workers(environment: dict[str, str], redis_url: str, directory: Path) -> Workers:
    """Return workers that run nothing yet."""
    return Workers(
        environment=environment | {"USAGE_TEST_CLOCK": "false"},
        directory=directory,
        sender=make_sender(redis_url),
        redis=redis.Redis.from_url(redis_url),
    )


def wait_until(holds: Callable[[], object], *, seconds: float = SECONDS_MAX) -> None:
    """Wait until something holds."""
    give_up_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up_at, "it did not come about"
        time.sleep(0.05)
