"""Starts processes that die, and checks that they died at the ordered step, and the state that they left."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

import redis

from tests.stripe_world.bench import Bench
from tests.stripe_world.whole import LEASED

LOCKS: Final = "usage:lock:*"
_SECONDS_MAX: Final = 10
_CONFIGURED_BY: Final = ("USAGE_", "STRIPE_", "DATABASE_URL", "REDIS_URL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """The life of a process: every step, in order, and the number of its calls with a transaction open."""

    steps: list[str]
    calls_in_transaction: int

    def count(self, what: str) -> int:
        """How many calls, or commits."""
        return sum(step.startswith(what) and step.endswith("before") for step in self.steps)


class Mortals:
    """Runs one process after the other, each on the installation of the environment at the time."""

    def __init__(self) -> None:
        self._parent: subprocess.Popen[str] | None = None

    def run(self, bench: Bench, *, at: str = "", **order: Any) -> Life:
        """Run a process to its end, or to its death `at` a step, which it must reach."""
        environment = {name: value for name, value in os.environ.items() if name.startswith(_CONFIGURED_BY)}
        imports = [name for name in sys.modules if name.startswith("stripe.")]  # else each would import them for itself
        told = self._ask({"at": at, "environment": environment, "imports": imports, **order})
        assert told.pop("exit") == (-signal.SIGKILL if at else 0), f"{order}: not what was asked for: {at or 'an end'}"
        assert not at or told["steps"][-1] == at
        _wait_for_the_end_of(bench, told.pop("backends"))
        return Life(**told)

    def close(self) -> None:
        if self._parent is not None:
            self._parent.communicate()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        if self._parent is None:
            command = [sys.executable, "-m", "tests.faults.dying"]
            self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        told: dict[str, Any] = {}
        try:
            self._parent.stdin.write(json.dumps(order) + "\n")
            self._parent.stdin.flush()
            while "exit" not in told:
                told |= json.loads(self._parent.stdout.readline())
        except BaseException:  # a cancelled test: the next one must not read the rest of its output
            self._parent.kill()
            self._parent = None
            raise
        return told


def _wait_for_the_end_of(bench: Bench, backends: list[int]) -> None:
    """Wait until the database notices the closed connections and drops the dead process's locks and transactions."""
    deadline = time.monotonic() + _SECONDS_MAX
    while bench.rows("SELECT pid FROM pg_stat_activity WHERE pid = ANY(CAST(:backends AS int[]))", backends=backends):
        assert time.monotonic() < deadline, "the database holds on to a process that is gone"
        time.sleep(0.002)


def left_behind(bench: Bench, client: "redis.Redis") -> set[str]:
    """Return the claims of dead processes: leases by table, runs of jobs that never ended, locks in Redis."""
    parts = [f"SELECT 'lease of {name}' AS held FROM {name} WHERE claimed_until > clock_timestamp()" for name in LEASED]  # noqa: S608 - named there
    parts.append("SELECT 'open job_run' FROM job_run WHERE finished_at IS NULL")
    parts.append("SELECT 'advisory lock' FROM pg_locks WHERE locktype = 'advisory'")
    held = {row.held for row in bench.rows(" UNION ".join(parts))}
    return held | ({"lock in Redis"} if next(client.scan_iter(LOCKS), None) else set())


def end_locks(client: "redis.Redis") -> None:
    """End the locks in Redis, as if they had expired without renewal."""
    for key in client.scan_iter(LOCKS):
        client.delete(key)
