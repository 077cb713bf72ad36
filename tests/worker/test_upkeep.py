"""A worker keeps nothing of the tasks that it has done."""

from typing import Any, Final

from celery import Celery

from tests.worker.workers import Workers, wait_until

TASKS: Final = 300


def test_a_prefork_worker_forgets_the_time_limits_of_the_tasks_that_have_ended(workers: Workers) -> None:
    workers.start("first", "--pool=prefork", "--concurrency=1", app="tests.worker.shown_timer")
    for _ in range(TASKS):
        workers.send("maintenance.chaos_nothing", ignore_result=True)
    wait_until(lambda: "task.ended" in workers.log("first"))
    wait_until(lambda: workers.redis.llen("usage:maintenance") == workers.redis.hlen("usage:unacked") == 0)
    # Each has a limit of a minute, of which less than a minute has passed: kombu alone would keep them all.
    assert workers.log("first").count("task.ended") >= TASKS
    wait_until(lambda: count_cancelled(workers.sender) == 0, seconds=10)


def count_cancelled(app: Celery) -> int | None:
    """Return how many cancelled entries a worker's timer keeps; None if it has not answered."""
    answers: Any = app.control.inspect(timeout=1)._request("cancelled_entries")
    return next(iter(answers.values())) if answers else None
