"""`python -m tests.benchmarks.tasks`: the cost of our task wrapper beside a bare task of Celery, in one worker.

Both do nothing, so that no query hides the cost. Both are declared to Celery alike (limits, retries), travel through
the same queue as the same JSON with the same arguments, are acknowledged late and taken one at a time by the one child
of the same prefork worker. Main process and child take turns, so the main process hides none of the child's work. Our
task checks three arguments, admits its actor, binds its ids, counts, times and writes its line to a file; the bare task
does none of that, and Celery's own lines are off for both. Metrics are those of several processes, as in an
installation.

A round is a whole backlog of one kind, between two gates; the bound holds for elapsed time. The processor time is that
of the worker, main process and child: other programs on the machine disturb it less.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.measure import ROUNDS, Figure, cpu_seconds, median, show
from tests.chaos.world import World, running_world
from tests.factories import team
from usage_tasks.embedded.processes import free_port

RATIO_MAX: Final = 1.25
TASKS: Final = int(os.environ.get("BENCH_TASKS", "2000"))
OURS: Final = "maintenance.chaos_ours"
BARE: Final = "maintenance.chaos_bare"
ARGUMENTS: Final[Mapping[str, Any]] = {
    "attribution_id": team(),
    "actor": "service:bench",
    "at": "2026-01-01T00:00:00+00:00",
}


def spent_by(world: World) -> float:
    """Return the processor time that the worker has used so far, main process and child."""
    return cpu_seconds(world.pid("work"), *world.children("work"))


def await_gate(world: World, mark: str) -> None:
    """Wait until the worker has reached a gate."""
    for _ in range(60):
        if world.redis.blpop([f"{mark} reached"], timeout=4):
            return
    raise TimeoutError(world.logs())


def round_of(world: World, task: str) -> tuple[float, float]:
    """How many seconds a task takes, of the clock and of the processor."""
    first, last = (f"gate {free_port()} {which}" for which in ("first", "last"))
    world.send("maintenance.chaos_gate", mark=first)
    with world.app.producer_pool.acquire(block=True) as producer:
        for _ in range(TASKS):
            world.app.send_task(
                task, kwargs=dict(ARGUMENTS), queue="maintenance", ignore_result=True, producer=producer
            )
    world.send("maintenance.chaos_gate", mark=last)
    await_gate(world, first)
    spent, started = spent_by(world), time.perf_counter()
    world.redis.rpush(f"{first} open", 1)
    await_gate(world, last)
    elapsed, spent = time.perf_counter() - started, spent_by(world) - spent
    world.redis.rpush(f"{last} open", 1)
    return elapsed / TASKS, spent / TASKS


def main() -> int:
    """Print the figures; return 1 if the bound does not hold."""
    with running_world() as world:
        metrics = world.directory / "metrics"
        metrics.mkdir(mode=0o777)
        # No proxy between worker and broker: it would take its part of the processors.
        world.environment |= {
            "REDIS_URL": world.redis_url,
            "CELERY_CONFIG_MODULE": "tests.benchmarks.celeryconfig",
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        }
        world.start("work")
        for task in (BARE, OURS):
            round_of(world, task)
        # Side by side: each round has both, so that a busy machine slows both.
        rounds = [(round_of(world, OURS), round_of(world, BARE)) for _ in range(ROUNDS)]
    figures = []
    for number, (name, bound) in enumerate((("our task", RATIO_MAX), ("of processor", None))):
        ours, bare = ([each[which][number] for each in rounds] for which in (0, 1))
        ratio = median([mine / theirs for mine, theirs in zip(ours, bare, strict=True)])
        figures.append(
            Figure(
                name=f"{name}, {1_000_000 * median(ours):,.0f} us a task, {1_000_000 * median(bare):,.0f} us bare",
                value=1 / median(ours),
                unit="tasks/s",
                beside="bare",
                beside_value=1 / median(bare),
                bound=f"ratio {ratio:.2f}" + (f" of {bound}" if bound else ""),
                holds=bound is None or ratio <= bound,
                rounds=[mine / theirs for mine, theirs in zip(ours, bare, strict=True)],
            )
        )
    Path(".data").mkdir(exist_ok=True)
    show(figures, Path(".data") / "bench-tasks.json")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
