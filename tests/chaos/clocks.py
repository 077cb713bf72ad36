"""Clocks that are wrong and clocks that jump: what a worker, a beat, a retry and a sweep then do.

Each world has a host's clock of its own for each process (tests/chaos/host_clock.py); the database's and Redis's are
right. The faults say in their outcome what was counted.
"""

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from tests.chaos.faults import Line, line, seconds_of, works
from tests.chaos.world import World, running_world

AHEAD: Final = timedelta(days=62)
"""Farther than two billing cycles: whatever goes by such a clock ends them both."""

RETRIES: Final = 20
WAIT_SECONDS_MAX: Final = 30
TICKS_SECONDS: Final = 6
"""How long a beat that ticks each second is listened to after its clock has jumped."""

_SETTINGS: Final = {"testClock": False, "resetUsageSchedule": "1s"}
_numbers = itertools.count(1)


@contextmanager
def clocks_world(clocks: Mapping[str, timedelta]) -> Iterator[World]:
    """A world of these workers and beats, each with its host's clock ahead by so much."""
    with running_world(*clocks, settings=_SETTINGS, clocks=clocks) as world:
        works(world)
        yield world


def skewed_retries(world: World) -> Line:
    """Two workers whose clocks differ by 62 days take each other's retries, which are to wait for a second."""
    marks = [f"busy {next(_numbers)}" for _ in range(RETRIES)]
    started = time.monotonic()
    sent = [world.send("maintenance.chaos_busy", mark=mark) for mark in marks]
    done = [world.await_answer(each or "", seconds=WAIT_SECONDS_MAX) is not None for each in sent]
    assert all(done), f"{sum(done)} of {RETRIES} retries came back"
    told = f"{RETRIES} of {RETRIES} retries done, each after its second"
    return line("retries between clocks 62 days apart", told, time.monotonic() - started, WAIT_SECONDS_MAX)


def skewed_redelivery(world: World) -> Line:
    """A worker whose clock is ahead does not take back what another one is working on."""
    marks = [f"nap {next(_numbers)}" for _ in range(2)]  # one for each worker
    for mark in marks:
        world.send("maintenance.chaos_nap", mark=mark, seconds=7)
    seconds = world.wait("the naps", lambda: all(world.redis.exists(f"{mark} ended") for mark in marks))
    begun = [int(world.redis.get(f"{mark} begun") or 0) for mark in marks]
    assert begun == [1, 1], f"begun {begun} times"
    return line("taken messages, clocks 62 days apart", "each begun once", seconds, WAIT_SECONDS_MAX)


def jumping_beat(world: World) -> Line:
    """A beat's clock is set back by 62 days, then forward by 124; its ticks go on."""
    counted = {}
    for name, ahead in (("back", -AHEAD), ("forward", AHEAD)):
        world.set_clock("beat 1", ahead)
        before = _runs(world)
        time.sleep(TICKS_SECONDS)
        counted[name] = _runs(world) - before
    told = ", ".join(f"{runs} runs in {TICKS_SECONDS} s after a jump {name}" for name, runs in counted.items())
    assert all(runs >= TICKS_SECONDS // 2 for runs in counted.values()), told
    return line("a beat's clock jumps back and forward", told, TICKS_SECONDS, TICKS_SECONDS)


def skewed_ticks(world: World) -> Line:
    """Beat and workers are up to 62 days apart: jobs run all the same."""
    before = _runs(world)
    seconds = seconds_of(lambda: world.wait("3 runs", lambda: _runs(world) >= before + 3, seconds=WAIT_SECONDS_MAX))
    return line("ticks between clocks 62 days apart", "jobs run", seconds, WAIT_SECONDS_MAX)


def _runs(world: World) -> int:
    ((count,),) = world.query("SELECT count(*) FROM job_run WHERE job = 'usage.reconcile' AND outcome = 'done'")
    return int(count)
