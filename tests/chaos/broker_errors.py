"""A broker that answers, but not as it should: with errors, late, as another server, or as if it knew nothing.

A prefork worker, a worker with threads and two beats must recover. Sessions are reported before, during and after each
fault, as a sender does who waits for the answer. In the end each is there once, and billed once.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

import redis

from tests.chaos.faults import RECOVERY_SECONDS_MAX, TAKEN_OVER_SECONDS_MAX, Line, begin, line
from tests.chaos.quarter import ACTOR, is_whole
from tests.chaos.world import BEATS, World, running_world
from tests.chaos.wrong_installation import wrong_installation
from tests.worker.redis_faults import (
    Fault,
    disk_full,
    memory_full,
    no_replicas,
    password_rotated,
    replica,
    script_blocks,
)
from usage_tasks.demo.quarter import load_quarter, reports_between
from usage_tasks.demo.replay import BEGIN, END
from usage_tasks.embedded.processes import free_port
from usage_tasks.embedded.redis import running_redis

SERVER_FAULTS: Final[dict[str, Fault]] = {
    "broker turns replica (READONLY, UNBLOCKED)": replica,
    "broker misses its replicas (NOREPLICAS)": no_replicas,
    "broker's disk is full (MISCONF)": disk_full,
    "broker's memory is full (OOM)": memory_full,
    "a script blocks the broker (BUSY)": script_blocks,
    "the broker's password is changed, and back (NOAUTH)": password_rotated,
}
DELAYS: Final = (0.5, 3.0)
"""Seconds: within the time-outs, and beyond them."""

EVERY: Final = 400
"""One session in so many of the quarter is reported for each fault."""

PARTS: Final = ("before", "during", "after")
WORKERS: Final = ("work", "threads")
AT: Final = END.isoformat()
SESSIONS: Final = "SELECT count(*) FROM workspace_instance"
ENTRIES: Final = "SELECT count(*), count(DISTINCT instance_id) FROM ledger_entry WHERE kind = 'session'"
TICKED: Final = "SELECT 1 FROM job_run WHERE slot = %s AND outcome = 'done'"

_numbers = itertools.count(1)
Lines = Iterator[Callable[[], Line]]


def broker_errors(seconds: float) -> Lines:
    """Each fault in turn, for so long."""
    with running_world(*WORKERS, *BEATS) as world:
        installation = Installation(world)
        for name, fault in SERVER_FAULTS.items():
            yield partial(installation.survive, name, partial(at_server, world, fault), seconds)
        for delay in DELAYS:
            yield partial(
                installation.survive, f"broker {delay:g} s late with each answer", partial(late, world, delay), seconds
            )
        yield partial(installation.survive, "broker flushed empty, two workers", partial(flushed, world), 0)
        yield partial(installation.survive, "failover behind an address", partial(failed_over, world), seconds)
    with running_world("work", *BEATS) as world:
        yield partial(wrong_installation, world)


@contextmanager
def at_server(world: World, fault: Fault) -> Iterator[None]:
    """A fault that an administrator does to the server."""
    with (
        redis.Redis.from_url(world.redis_url, single_connection_client=True) as admin,
        fault(admin, world.directory / "redis"),
    ):
        yield


@contextmanager
def late(world: World, delay: float) -> Iterator[None]:
    """Answers that come late."""
    world.wire.slow(delay)
    yield
    world.wire.slow(0)


@contextmanager
def flushed(world: World) -> Iterator[None]:
    """Everything in Redis is gone; the tests' clock, which is in there too, goes on."""
    now = world.clock.now()
    world.redis.flushall()
    world.clock.advance(now)
    yield


@contextmanager
def failed_over(world: World) -> Iterator[None]:
    """For a while the address leads to another primary; what is connected to the old one, a replica then, stays so."""
    with ExitStack() as stack:
        port = free_port()
        stack.enter_context(running_redis(world.directory / "another", {}, ports=lambda: port))
        another = redis.Redis(port=port)
        another.set("usage:test_clock", world.clock.now().isoformat())
        world.wire.retarget(port)
        world.redis.replicaof("127.0.0.1", str(port))
        yield
        # Back: the old one has what the new one got meanwhile, and the new one is its replica for the last seconds.
        world.redis.replicaof("NO", "ONE")
        another.replicaof("127.0.0.1", str(world.ports["redis"]))
        world.wire.retarget(world.ports["redis"])
        time.sleep(1)  # a connected process must notice, and leave


class Installation:
    """Workers, beats, and all sessions that were ever reported to them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reported: set[str] = set()
        world.clock.advance(END)
        self._await_work()

    def survive(self, name: str, fault: Callable[[], AbstractContextManager[None]], seconds: float) -> Line:
        """Do a fault for so long; return how long afterwards everybody works again, and check what was reported."""
        world = self._world
        begin(name)
        pids = {each: world.pid(each) for each in world.running()}
        parts = self._take_reports()
        self._send(parts["before"])
        with fault():
            time.sleep(seconds / 2)
            self._send(parts["during"])
            time.sleep(seconds / 2)
        recovery = self._await_work()
        job = self._await_job()
        for reports in parts.values():
            world.ask("usage.record_instances", instances=reports, actor=ACTOR, at=AT)
        assert {each: world.pid(each) for each in world.running()} == pids, f"{name}: a process has exited"
        told = f"same processes; {self._check_once(name)} sessions billed once; a job ran {job:.1f} s later"
        return line(name, told, recovery, RECOVERY_SECONDS_MAX)

    def _take_reports(self) -> dict[str, Sequence[Any]]:
        reports = reports_between(load_quarter()[10 * next(_numbers) :: EVERY], BEGIN, END)
        fresh = [each for each in reports if each["stopped_at"] and each["instance_id"] not in self._reported]
        self._reported |= {str(each["instance_id"]) for each in fresh}
        return {name: fresh[number :: len(PARTS)] for number, name in enumerate(PARTS)}

    def _send(self, reports: Sequence[Any]) -> None:
        """Send reports once; where the broker does not take them, they are sent again later, as the client does."""
        self._world.send("usage.record_instances", instances=reports, actor=ACTOR, at=AT)

    def _await_work(self) -> float:
        """Wait until a task is answered, both workers take messages, and both beats have had a turn without a wait."""
        world, begun_at, wall = self._world, time.monotonic(), time.time()
        world.ask("maintenance.chaos_nothing")
        files = world.directory / "heartbeats"

        def beating() -> bool:
            fresh = [each for each in files.iterdir() if each.stat().st_mtime >= wall]
            return len(fresh) >= len(WORKERS) + len(BEATS)

        world.wait("heartbeats", beating)
        return time.monotonic() - begun_at

    def _await_job(self) -> float:
        """Wait until a tick's job is done: if its last run was cut short, its lock must end first."""
        world, begun_at = self._world, time.monotonic()
        instant = world.clock.advance(world.clock.now() + timedelta(days=1))
        world.wait("a tick", lambda: bool(world.query(TICKED, instant)), seconds=TAKEN_OVER_SECONDS_MAX)
        return time.monotonic() - begun_at

    def _check_once(self, name: str) -> int:
        """Return the number of sessions; AssertionError if one is lost, or there or billed twice."""
        world = self._world
        world.ask("usage.reconcile", at=AT)
        count = len(self._reported)
        assert world.query(SESSIONS) == [(count,)], f"{name}: {world.query(SESSIONS)} of {count} sessions"
        world.wait("the ledger", lambda: world.query(ENTRIES)[0][0] >= count)
        assert world.query(ENTRIES) == [(count, count)], f"{name}: {world.query(ENTRIES)} of {count} sessions billed"
        assert is_whole(world, world.clock.now()), f"{name}: verify found something"
        return count
