"""`python -m tests.chaos [part ...]`: faults done to real processes, and the matrix fault x outcome x recovery.

Parts: servers, silent-network, broker-errors, stopping, guard, beats, memory, kills, clocks; all of them unless named.
CHAOS_CUT (30) seconds of a cut network, CHAOS_SILENCE (30) of a silent one, CHAOS_ERRORS (12) of a broker's errors,
CHAOS_TASKS (100000) through one child, CHAOS_STORM (60) seconds of load while clocks jump, CHAOS_RUNS (20) seeded runs
from CHAOS_SEED (1) on. A run is the whole real quarter, its 17,900 sessions reported and ticked every 3 days, while a
child, the whole worker and one of two beats are killed at random moments; CHAOS_SAMPLE=1 makes it every 60th session,
ticked every 12 days.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Final

from tests.chaos import broker_errors as broker_faults
from tests.chaos import clocks as clock_faults
from tests.chaos import faults
from tests.chaos.faults import Line
from tests.chaos.world import BEATS, SILENCED, World, running_world

RESULTS = Path(".data") / "chaos.json"


def number(name: str, default: int) -> int:
    """A number from the environment."""
    return int(os.environ.get(name, default))


def servers() -> Iterator[Callable[[], Line]]:
    """The servers that a worker depends on go away and come back."""
    with running_world("work", *BEATS) as world:
        faults.works(world)
        yield lambda: faults.broker_restart(world)
        yield lambda: faults.network_cut(world, number("CHAOS_CUT", 30))
        yield lambda: faults.database_restart(world)
        yield lambda: faults.broker_flushed(world)
        yield lambda: faults.poison(world)


def silent_network() -> Iterator[Callable[[], Line]]:
    """A network that forwards nothing and ends no connection, before the database and before the broker."""
    seconds = number("CHAOS_SILENCE", 30)
    for worker in SILENCED:
        # A world for each: what was cut off in one comes back later, and takes a worker's time.
        for silent in (faults.silent_database, faults.silent_broker):
            with running_world() as world:
                silencable(world, worker)
                yield lambda world=world, worker=worker, silent=silent: silent(world, worker, seconds)  # type: ignore[misc]  # defaults bind them


def silencable(world: World, worker: str) -> None:
    """Start a worker that reaches its database through the wire too."""
    world.environment["DATABASE_URL"] = f"postgresql://postgres@127.0.0.1:{world.database_wire.port}/usage"
    world.start(worker)
    faults.works(world)


def broker_errors() -> Iterator[Callable[[], Line]]:
    """A broker that runs and does not do what it is asked."""
    yield from broker_faults.broker_errors(number("CHAOS_ERRORS", 12))


def stopping() -> Iterator[Callable[[], Line]]:
    """A worker gets SIGTERM."""
    with running_world("work") as quiet:
        yield lambda: faults.terminated(quiet)
    with running_world("work", *BEATS) as world:
        yield lambda: faults.terminated(world, ticking=True)
        yield lambda: faults.terminated(world, nap=2)
        yield lambda: faults.terminated(world, nap=8)


def guard() -> Iterator[Callable[[], Line]]:
    """Nothing is wrong, and everything is left alone."""
    with running_world() as world:
        yield lambda: faults.beside_retries(world, seconds=35, retries=50)


def beats() -> Iterator[Callable[[], Line]]:
    """Two beats, then one."""
    with running_world("work", *BEATS) as world:
        faults.works(world)
        yield lambda: faults.simulated_hour(world)
        yield lambda: faults.beat_killed(world)


def memory() -> Iterator[Callable[[], Line]]:
    """One child, never exchanged, straight at its broker."""
    with running_world() as world:
        world.environment |= {"REDIS_URL": world.redis_url, "CELERY_CONFIG_MODULE": "tests.benchmarks.celeryconfig"}
        world.start("work")
        faults.works(world)
        yield lambda: faults.memory(world, number("CHAOS_TASKS", 100_000))


def kills() -> Iterator[Callable[[], Line]]:
    """The quarter, its workers and beats killed."""
    sample = faults.SHORT if os.environ.get("CHAOS_SAMPLE") else faults.FULL
    first = number("CHAOS_SEED", 1)
    for seed in range(first, first + number("CHAOS_RUNS", 20)):
        yield lambda seed=seed: faults.quarter_with_kills(seed, sample)  # type: ignore[misc]  # a default binds it


def clocks() -> Iterator[Callable[[], Line]]:
    """Hosts up to 124 days apart, whose clocks jump, and a database whose clock is set back."""
    begun = {"work": timedelta(0), "work 2": clock_faults.AHEAD, "beat 1": -clock_faults.AHEAD}
    with clock_faults.clocks_world(begun) as world:
        yield lambda: clock_faults.skewed_ticks(world)
        yield lambda: clock_faults.skewed_retries(world)
        yield lambda: clock_faults.skewed_redelivery(world)
        yield lambda: clock_faults.jumping_beat(world)
        yield lambda: clock_faults.storm(world, seconds=number("CHAOS_STORM", 60), seed=number("CHAOS_SEED", 1))
        yield lambda: clock_faults.database_set_back(world)
    with clock_faults.clocks_world({"all": timedelta(0)}) as world:
        for earlier_beat in (False, True):
            yield lambda earlier_beat=earlier_beat: clock_faults.away(world, earlier_beat=earlier_beat)  # type: ignore[misc]  # a default binds it


PARTS: Final = {
    each.__name__.replace("_", "-"): each
    for each in (servers, silent_network, broker_errors, stopping, guard, beats, memory, kills, clocks)
}


def lines(names: Sequence[str]) -> Iterator[Callable[[], Line]]:
    """The faults of these parts, in turn; those of one world share it. A world that does not come up is a line too."""
    for name in names:
        try:
            yield from PARTS[name]()
        except (AssertionError, TimeoutError) as error:
            not_up = faults.failed(f"{name}: the start of its world", error)
            yield lambda not_up=not_up: not_up  # type: ignore[misc]  # a default binds it


def main() -> int:
    """Print the matrix; answer 1 where something does not hold."""
    done: list[Line] = []
    for run in lines(sys.argv[1:] or list(PARTS)):
        each = faults.attempt(run)
        done.append(each)
        row = f"{each.fault:52} {each.outcome:60} {each.recovery_seconds:8.2f} s of {each.bound_seconds:g}"
        sys.stdout.write(f"{row} {'yes' if each.holds else 'NO'}\n")
        sys.stdout.flush()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(each) for each in done], indent=2))
    return 0 if all(each.holds for each in done) else 1


if __name__ == "__main__":
    sys.exit(main())
