"""A long task beside many retries that wait, in a prefork worker and in a worker with threads at once."""

from typing import Final

from tests.worker.workers import Workers, wait_until
from usage_tasks.coordination.dead_letters import count_dead_letters

POOLS: Final = {"prefork": "maintenance", "threads": "directory"}
RECONNECTED: Final = ("Connection to broker lost", "acknowledgements were lost", "Terminating it instead")


def run_beside_retries(workers: Workers, *, seconds: float, retries: int) -> dict[str, object]:
    """Run a task of this length in each pool beside waiting retries; return what is to be true of every such run."""
    for pool, queue in POOLS.items():
        workers.start(pool, f"--pool={pool}", "--concurrency=2", queues=queue)
    for pool, queue in POOLS.items():
        workers.send("maintenance.chaos_nap", queue, kwargs={"mark": pool, "seconds": seconds}, ignore_result=True)
        wait_until(lambda pool=pool: workers.count(f"{pool} begun"))  # type: ignore[misc]  # a default binds it
        for _ in range(retries):
            workers.send("maintenance.chaos_waiting", queue, kwargs={"mark": pool}, ignore_result=True)
    for pool in POOLS:
        wait_until(lambda pool=pool: workers.count(f"{pool} ended"), seconds=seconds * 3)  # type: ignore[misc]
    return {
        "begun": {pool: workers.count(f"{pool} begun") for pool in POOLS},
        "ended": {pool: workers.count(f"{pool} ended") for pool in POOLS},
        "waiting": {pool: workers.count(f"{pool} waiting") for pool in POOLS},
        "reconnected": [line for pool in POOLS for line in RECONNECTED if line in workers.log(pool)],
        "parked": count_dead_letters(workers.redis),
    }


def expected(retries: int) -> dict[str, object]:
    """Each task ran once, each retry waits, nobody reconnected."""
    once = dict.fromkeys(POOLS, 1)
    return {
        "begun": once,
        "ended": once,
        "waiting": dict.fromkeys(POOLS, retries),
        "reconnected": [],
        "parked": 0,
    }
