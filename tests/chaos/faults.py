"""Every fault: done to a running world, and timed until work goes on. An AssertionError names what did not hold."""

import itertools
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tests.chaos.quarter import ACTOR, Killer, Sample, calm, is_whole, walk
from tests.chaos.world import BEATS, SILENCED, World, running_world
from tests.worker.guard_run import expected as expected_beside
from tests.worker.guard_run import run_beside_retries
from tests.worker.workers import make_workers
from usage_tasks.demo.quarter import load_quarter, reports_between
from usage_tasks.demo.replay import BEGIN, END

SHORT: Final = Sample(every=60, step=timedelta(days=12))
FULL: Final = Sample(every=1, step=timedelta(days=3))
RECOVERY_SECONDS_MAX: Final = 15
GRACE_SECONDS: Final = 5
"""As in tests/chaos/celeryconfig.py; a task that is longer must end within the 10 s after which it runs twice."""

MEMORY_STEP: Final = 1_000
MEMORY_MOST_KIB: Final = 128 * 1024
"""What a worker imports takes 105 to 113 MiB of its main process, by the Python and the machine."""

MEMORY_GROWN_KIB: Final = 8 * 1024
DONE: Final = "SELECT 1 FROM job_run WHERE slot = %s AND outcome = 'done' HAVING count(*) = 2"
TAKEN_OVER_SECONDS_MAX: Final = 60
"""A run that was killed is taken over when its lock has ended (30 s), by the next tick."""

_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the matrix."""

    fault: str
    outcome: str
    recovery_seconds: float
    bound_seconds: float
    holds: bool = True


_begun: list[str] = []


def begin(fault: str) -> str:
    """Remember the name of the fault that is done now, for the line of one that does not hold; return the name."""
    _begun[:] = [fault]
    return fault


def attempt(run: Callable[[], Line]) -> Line:
    """Do a fault and return its line; where something does not hold, the line names the fault and says what."""
    _begun.clear()
    try:
        return run()
    except (AssertionError, TimeoutError) as error:
        called = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        functions = [name for name in called if name not in {attempt.__name__, "<lambda>"}]
        unnamed = functions[0].replace("_", " ") if functions else "a fault without a name"
        return failed(_begun[-1] if _begun else unnamed, error)


def failed(fault: str, error: Exception) -> Line:
    """The line of a fault after which something did not hold."""
    told = " ".join(str(error).split())[:300] or "an assertion without words"
    return Line(fault=fault, outcome=f"FAILED: {told}", recovery_seconds=0, bound_seconds=0, holds=False)


def line(fault: str, outcome: str, seconds: float, bound: float) -> Line:
    """A line whose bound is checked."""
    return Line(
        fault=fault, outcome=outcome, recovery_seconds=round(seconds, 2), bound_seconds=bound, holds=seconds <= bound
    )


def seconds_of(work: Callable[[], object]) -> float:
    """How long something took."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def works(world: World) -> float:
    """How long until the worker answers a task that was sent after the fault."""
    return seconds_of(lambda: world.ask("maintenance.chaos_nothing"))


def quarter_with_kills(seed: int, sample: Sample = SHORT, *, kills: int = 3) -> Line:
    """kill -9 of a child, the whole worker and one of two beats, at random moments of the quarter."""
    begin(f"kill -9 of {kills} processes (seed {seed})")
    with running_world("work", *BEATS) as world:
        expected = calm(world.database_url, sample)
        works(world)
        killer = Killer(world, sample, seed, kills=kills)
        slowest = [0.0]
        asked, ask = [0.0], world.ask

        def timed(task: str, **arguments: Any) -> dict[str, Any]:
            asked[0] = time.monotonic()
            answer = ask(task, **arguments)
            slowest[0] = max(slowest[0], time.monotonic() - asked[0])
            return answer

        world.ask = timed  # type: ignore[method-assign]  # timed, not changed
        totals = walk(world, sample, at_instant=killer)
        killer.join()
        assert len(killer.done) == kills, f"{len(killer.done)} of {kills} were killed: {', '.join(killer.done)}"
        assert totals == expected, f"totals {totals} are not the clean run's {expected}"
        assert is_whole(world), "verify found something"
    return line(
        f"kill -9 of {', '.join(killer.done)} (seed {seed})", "totals equal", slowest[0], TAKEN_OVER_SECONDS_MAX
    )


def broker_restart(world: World) -> Line:
    """Redis ends and comes back while a task runs."""
    fault = begin("broker restarted during a task")
    mark = f"restart {next(_numbers)}"
    world.send("maintenance.chaos_nap", mark=mark, seconds=2)
    world.wait("the nap", lambda: world.redis.exists(f"{mark} begun") == 1)
    pid = world.pid("work")
    world.stop_server("redis")
    world.start_server("redis")
    seconds = works(world)
    assert world.pid("work") == pid, "the worker has exited"
    kept = world.redis.exists(f"{mark} ended") == 1 or bool(world.redis.hlen("usage:unacked"))
    told = f"same worker goes on; the running task's message was {'kept' if kept else 'lost, as a broker may'}"
    return line(fault, told, seconds, RECOVERY_SECONDS_MAX)


def network_cut(world: World, seconds: float) -> Line:
    """Nothing passes between the worker and its broker for a while."""
    fault = begin(f"network cut for {seconds:g} s")
    pid = world.pid("work")
    world.wire.cut()
    mark = f"cut {next(_numbers)}"
    world.send("maintenance.chaos_nap", mark=mark, seconds=0)
    time.sleep(seconds)
    world.wire.mend()
    recovery = works(world)
    assert world.pid("work") == pid, "the worker has exited"
    return line(fault, "same worker goes on", recovery, RECOVERY_SECONDS_MAX)


def silent_database(world: World, worker: str, seconds: float) -> Line:
    """PostgreSQL accepts and answers nothing for a while, and what was connected stays dead: each task holds a lock."""
    fault = begin(f"database silent for {seconds:g} s, {worker}")
    _, size = SILENCED[worker]
    pid, mark = world.pid(worker), f"silent {next(_numbers)}"
    for number in range(size):
        world.send("maintenance.chaos_hold", mark=mark, number=number, seconds=2)
    world.wait("the locks", lambda: int(world.redis.get(f"{mark} begun") or 0) == size)
    world.database_wire.silence()
    time.sleep(seconds)
    world.database_wire.speak()
    returned_at = time.monotonic()
    world.ask("maintenance.chaos_read")
    answered = time.monotonic() - returned_at
    world.wait("the tasks that held locks", lambda: int(world.redis.scard(f"{mark} ended")) == size)
    recovery = time.monotonic() - returned_at
    assert world.pid(worker) == pid, "the worker has exited"
    written = world.query("SELECT count(*) FROM job_epoch WHERE epoch = 1 AND job LIKE %s", f"{mark} %")
    assert written == [(size,)], f"{written[0][0]} of {size} tasks that held locks have written"
    told = f"answers after {answered:.1f} s; tasks that held locks are done: {size}"
    return line(fault, told, recovery, RECOVERY_SECONDS_MAX)


def silent_broker(world: World, worker: str, seconds: float) -> Line:
    """Redis accepts and answers nothing for a while, and what was connected stays dead.

    Until the worker's last BRPOP ends, after a second, Redis hands out a message to nobody: it is lost.
    """
    fault = begin(f"broker silent for {seconds:g} s, {worker}")
    pid = world.pid(worker)
    reports = reports_between(load_quarter()[2::500], BEGIN, END)[:5]
    before = world.query("SELECT count(*) FROM workspace_instance")
    world.wire.silence()
    time.sleep(seconds / 2)
    world.send("usage.record_instances", instances=reports, actor=ACTOR, at=END.isoformat())
    time.sleep(seconds / 2)
    world.wire.speak()
    recovery = works(world)
    world.wait("the reports", lambda: world.query("SELECT count(*) FROM workspace_instance") != before)
    assert world.pid(worker) == pid, "the worker has exited"
    return line(fault, "same worker goes on", recovery, RECOVERY_SECONDS_MAX)


def database_restart(world: World) -> Line:
    """PostgreSQL ends and comes back."""
    fault = begin("database restarted")
    reports = reports_between(load_quarter()[::500], BEGIN, END)[:5]
    before = world.query("SELECT count(*) FROM workspace_instance")
    world.stop_server("postgres")
    sent = world.send("usage.record_instances", instances=reports, actor=ACTOR, at=END.isoformat())
    time.sleep(1)
    world.start_server("postgres")
    recovery = world.wait("the reports", lambda: world.query("SELECT count(*) FROM workspace_instance") != before)
    assert sent, "the broker took no message"
    return line(fault, "a task that met it is tried again", recovery, RECOVERY_SECONDS_MAX)


def broker_flushed(world: World) -> Line:
    """Everything in Redis is gone; beats bring it back, and what was reported and not yet posted is posted."""
    fault = begin("broker flushed empty")
    reports = reports_between(load_quarter()[1::500], BEGIN, END)[:5]
    world.ask("usage.record_instances", instances=reports, actor=ACTOR, at=END.isoformat())
    entries = world.query("SELECT count(*) FROM ledger_entry")
    world.redis.flushall()
    world.clock.advance(END + timedelta(days=next(_numbers)))  # the tests' clock is in there too: time goes on
    recovery = world.wait("the sweep", lambda: world.query("SELECT count(*) FROM ledger_entry") != entries)
    return line(fault, "a tick finds all pending work", recovery, RECOVERY_SECONDS_MAX)


def poison(world: World) -> Line:
    """A message that kills its child each time is given up, set aside, and others are served."""
    fault = begin("poison message")
    mark = f"poison {next(_numbers)}"
    task_id = world.send("maintenance.chaos_poison", mark=mark)
    seconds = world.wait("parking", lambda: bool(world.redis.hexists("usage:parked", task_id or "")))
    attempts = int(world.redis.get(mark) or 0)
    assert attempts == 2, f"{attempts} attempts, not one and one retry"
    works(world)
    return line(fault, "2 attempts, parked", seconds, 40)


def beside_retries(world: World, *, seconds: float, retries: int) -> Line:
    """A healthy task of this length beside retries that wait, in both pools: no fault, so nothing may act."""
    fault = begin(f"a task of {seconds:g} s beside {retries} waiting retries")
    environment = {name: value for name, value in world.environment.items() if name != "CELERY_CONFIG_MODULE"}
    workers = make_workers(environment, world.redis_url, world.directory)
    with workers.stack:
        started = time.monotonic()
        found = run_beside_retries(workers, seconds=seconds, retries=retries)
        took = time.monotonic() - started
    assert found == expected_beside(retries), f"found {found}, expected {expected_beside(retries)}"
    return line(fault, "prefork and threads: ran once, same connection, nothing parked", took, seconds + 30)


def terminated(world: World, *, nap: float = 0, ticking: bool = False) -> Line:
    """SIGTERM: idle it ends at once; busy it finishes its task, or hands on what takes longer than the grace of 5 s."""
    doing = f"a task of {nap:g} s" if nap else "idle"
    fault = begin(f"SIGTERM, {doing}{', beats that tick each second' if ticking else ''}")
    mark = f"term {next(_numbers)}"
    works(world)
    if nap:
        world.send("maintenance.chaos_nap", mark=mark, seconds=nap)
        world.wait("the nap", lambda: world.redis.exists(f"{mark} begun") == 1)
    started = time.monotonic()
    os.kill(world.pid("work"), signal.SIGTERM)
    while world.returncode("work") is None and time.monotonic() - started < 60:
        time.sleep(0.02)
    ended = time.monotonic() - started
    told = "ended, no task lost"
    if nap:
        world.wait("the task", lambda: world.redis.exists(f"{mark} ended") == 1)
        begun = int(world.redis.get(f"{mark} begun") or 0)
        assert begun == (1 if nap < GRACE_SECONDS else 2), f"begun {begun} times"
        told = "finished its task" if begun == 1 else "handed its task on, which another worker finished"
    world.supervise()
    works(world)
    return line(fault, told, ended, GRACE_SECONDS + 10 if nap else 10)


def simulated_hour(world: World) -> Line:
    """Two beats for an hour of the tests' clock, a minute at a time: each due time runs once, at the first attempt."""
    fault = begin("two beats for a simulated hour")
    begun = world.clock.now() + timedelta(days=1)
    started = time.monotonic()
    for minute in range(60):
        instant = begun + timedelta(minutes=minute)
        world.clock.advance(instant)
        world.wait(f"the jobs of {instant}", lambda instant=instant: bool(world.query(DONE, instant)))  # type: ignore[misc]  # a default binds it
    rows = world.query("SELECT job, slot, attempts FROM job_run WHERE slot >= %s", begun)
    assert len(rows) == 120, f"{len(rows)} runs, not 120"
    again = [row for row in rows if row[2] != 1]
    assert not again, f"{len(again)} runs took more than one attempt: {again}"
    told = "60 due times of 2 jobs, each run once"
    return line(fault, told, time.monotonic() - started, 600)


def beat_killed(world: World) -> Line:
    """One of two beats ends: the other one ticks on."""
    fault = begin("kill -9 of one of two beats")
    world.kill("beat 1")
    slots = world.query("SELECT count(*) FROM job_run WHERE job = 'usage.reconcile'")
    world.clock.advance(END + timedelta(days=next(_numbers)))
    seconds = world.wait(
        "a tick", lambda: world.query("SELECT count(*) FROM job_run WHERE job = 'usage.reconcile'") != slots
    )
    return line(fault, "the other ticks on", seconds, RECOVERY_SECONDS_MAX)


def memory(world: World, tasks: int) -> Line:
    """Many tasks through one child that is never exchanged: it and its parent stay small, and grow no further."""
    fault = begin(f"{tasks:,} tasks through one child")
    pids = {"main": world.pid("work"), "child": world.children("work")[0]}
    seen: dict[str, list[int]] = {name: [] for name in pids}
    started = time.monotonic()
    for _ in range(0, tasks, MEMORY_STEP):
        with world.app.producer_pool.acquire(block=True) as producer:
            for _ in range(MEMORY_STEP):
                world.app.send_task(
                    "maintenance.chaos_nothing", queue="maintenance", ignore_result=True, producer=producer
                )
        world.wait("the queue", lambda: world.redis.llen("usage:maintenance") == 0, seconds=300)
        for name, pid in pids.items():
            seen[name].append(rss_kib(pid))
    assert world.children("work") == [pids["child"]], "the child was exchanged"
    too_much = [words for name, each in seen.items() for words in judge_memory(name, each)]
    assert not too_much, "; ".join(too_much)
    told = ", ".join(f"{name} {mib(each[0])} to {mib(each[-1])} MiB" for name, each in seen.items())
    return line(fault, told, time.monotonic() - started, tasks / 50)


def judge_memory(name: str, seen_kib: Sequence[int]) -> Iterator[str]:
    """Yield in words what is wrong with a process: its level, its growth. Its memory was looked at each thousand tasks.

    The first tenth warms up. A process that leaks 100 bytes a task grows by 8.8 MiB in what is left of 100,000.
    """
    warm, last, most = seen_kib[len(seen_kib) // 10], seen_kib[-1], max(seen_kib)
    if most > MEMORY_MOST_KIB:
        yield f"{name} held up to {mib(most)} MiB, {mib(MEMORY_MOST_KIB)} are allowed"
    if last - warm > MEMORY_GROWN_KIB:
        grown = f"from {mib(warm)} to {mib(last)} MiB after its first tenth"
        yield f"{name} grew {grown}, {mib(MEMORY_GROWN_KIB)} are allowed"


def mib(kib: int) -> str:
    """Show KiB as MiB."""
    return f"{kib / 1024:.1f}"


def rss_kib(pid: int) -> int:
    """How much memory a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024
