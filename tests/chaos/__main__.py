"""`python -m tests.chaos`: every fault, done to real processes, and the matrix fault x outcome x recovery.

CHAOS_RUNS (20) seeded runs of the sampled quarter, CHAOS_CUT (30) seconds of a cut network, CHAOS_TASKS (100000)
through one child, CHAOS_FULL=1 for the whole quarter instead of the sample.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from tests.chaos import faults
from tests.chaos.faults import Line
from tests.chaos.world import BEATS, running_world

RESULTS = Path(".data") / "chaos.json"


def lines() -> Iterator[Callable[[], Line]]:
    """Every fault, in turn; those of one world share it."""
    runs, cut, tasks = (
        int(os.environ.get(name, default))
        for name, default in (("CHAOS_RUNS", "20"), ("CHAOS_CUT", "30"), ("CHAOS_TASKS", "100000"))
    )
    with running_world("work", *BEATS) as world:
        faults.works(world)
        yield lambda: faults.broker_restart(world)
        yield lambda: faults.network_cut(world, cut)
        yield lambda: faults.database_restart(world)
        yield lambda: faults.broker_flushed(world)
        yield lambda: faults.beat_killed(world)
        yield lambda: faults.poison(world)
        yield lambda: faults.terminated(world, busy=True)
    with running_world("work") as quiet:
        yield lambda: faults.terminated(quiet, busy=False)
        if tasks:
            yield lambda: faults.memory(quiet, tasks)
    sample = faults.FULL if os.environ.get("CHAOS_FULL") else faults.SHORT
    for seed in range(1, runs + 1):
        yield lambda seed=seed: faults.quarter_with_kills(seed, sample)  # type: ignore[misc]  # a default binds it


def main() -> int:
    """Print the matrix; answer 1 where something does not hold."""
    done: list[Line] = []
    for run in lines():
        try:
            done.append(run())
        except (AssertionError, TimeoutError) as error:
            told = f"FAILED: {str(error)[:300]}"
            done.append(Line(fault="see outcome", outcome=told, recovery_seconds=0, bound_seconds=0, holds=False))
        each = done[-1]
        row = f"{each.fault:42} {each.outcome:64} {each.recovery_seconds:8.2f} s of {each.bound_seconds:g}"
        sys.stdout.write(f"{row} {'yes' if each.holds else 'NO'}\n")
        sys.stdout.flush()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(each) for each in done], indent=2))
    return 0 if all(each.holds for each in done) else 1


if __name__ == "__main__":
    sys.exit(main())
