"""Real workers that stand still, and real workers that are only busy: the probe names the first, and no other."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.worker.workers import Workers, wait_until
from usage_tasks.health import check_heartbeats

NAP = "maintenance.chaos_nap"
LONG = "maintenance.chaos_gate"
STALLED_SECONDS_MAX = 4
"""Less than the 30 s of an installation: what is healthy must be so by this too."""

FOUND_SECONDS_MAX = 40


def problems(workers: Workers, *, live: bool = False) -> dict[str, str]:
    found = check_heartbeats(Path(workers.environment["USAGE_HEARTBEAT_DIR"]), "worker", live=live)
    return {name: problem for name, problem in found if problem}


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def watched(workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workers:
    monkeypatch.setattr("usage_tasks.health.STALLED_SECONDS_MAX", STALLED_SECONDS_MAX)
    workers.environment["USAGE_HEARTBEAT_DIR"] = str(tmp_path / "heartbeats")
    return workers


def wait_for(workers: Workers, *parts: str) -> None:
    wait_until(lambda: all(part in str(problems(workers)) for part in parts), seconds=FOUND_SECONDS_MAX)
    assert problems(workers, live=True) == {}  # a restart is not yet due


@pytest.mark.timeout(150)
def test_a_child_that_hangs_and_takes_nothing_is_reported_and_no_longer_once_it_goes_on(watched: Workers) -> None:
    worker = watched.start("worker", "--pool=prefork", "--concurrency=1")
    pool = [pid for pid in children(worker.pid) if children_of_pool(pid)]
    for pid in pool:
        os.kill(pid, signal.SIGSTOP)
    try:
        watched.send(NAP, kwargs={"mark": "hang", "seconds": 0})
        wait_for(
            watched, "worker.worker@test (queues maintenance, pid ", "1 tasks wait for its pool, though 1 of 1 slots"
        )
    finally:
        for pid in pool:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: watched.count("hang ended") and not problems(watched))


def children_of_pool(pid: int) -> bool:
    return "celery" in Path(f"/proc/{pid}/cmdline").read_text()


@pytest.mark.timeout(150)
def test_threads_that_all_hold_tasks_beyond_their_limits_are_reported(watched: Workers) -> None:
    watched.start("worker", "--pool=threads", "--concurrency=2")
    for number in range(3):
        watched.send(NAP, kwargs={"mark": f"over {number}", "seconds": 50}, time_limit=5)
    wait_for(watched, f"all 2 slots of its pool hold tasks beyond their time limits ({NAP})")


@pytest.mark.timeout(150)
def test_a_queue_whose_consumer_was_cancelled_is_reported_once_messages_wait_in_it(watched: Workers) -> None:
    watched.start("worker", "--pool=threads", "--concurrency=2", queues="maintenance,billing")
    watched.sender.control.cancel_consumer("billing", destination=["worker@test"], reply=True)
    time.sleep(12)
    assert problems(watched) == {}
    watched.send("billing.sync", queue="billing")
    wait_for(watched, "it takes none of the messages that wait in billing", "celery control add_consumer billing")
    watched.sender.control.add_consumer("billing", destination=["worker@test"], reply=True)
    wait_until(lambda: not problems(watched))


@pytest.mark.timeout(150)
def test_workers_that_are_only_busy_are_never_reported(watched: Workers) -> None:
    """Long tasks in all slots before a queue that is not empty; retries that wait; a solo worker in a long task."""
    watched.start("busy", "--pool=threads", "--concurrency=2")
    watched.start("alone", "--pool=solo", queues="directory")
    watched.start("forked", "--pool=prefork", "--concurrency=2", queues="billing,stripe")
    for number in range(20):
        watched.send("maintenance.chaos_waiting", queue="billing", kwargs={"mark": "busy"})
        watched.send(NAP, kwargs={"mark": f"busy {number}", "seconds": 35})
    watched.send(NAP, queue="directory", kwargs={"mark": "alone", "seconds": 50})
    watched.send(NAP, queue="stripe", kwargs={"mark": "forked", "seconds": 50})
    wait_until(lambda: watched.count("alone begun") and watched.count("forked begun"))
    ends_at = time.monotonic() + 20
    seen: set[str] = set()
    while time.monotonic() < ends_at:
        seen.update(
            f"{name}: {problem}" for live in (False, True) for name, problem in problems(watched, live=live).items()
        )
        time.sleep(1)
    assert seen == set()
    waiting: Any = watched.redis.llen("usage:maintenance")
    assert waiting > 0


@pytest.mark.timeout(120)
def test_three_workers_of_readme_have_names_and_files_of_their_own(watched: Workers) -> None:
    started = {}
    for queues in ("usage", "billing,stripe", "maintenance,directory"):
        started[queues] = watched.start(queues, "--pool=threads", "--concurrency=1", queues=queues, hostname=None)
    watched.start("named", "--pool=threads", "--concurrency=1", queues="usage", hostname="celery@given")
    found = dict(check_heartbeats(Path(watched.environment["USAGE_HEARTBEAT_DIR"]), "worker", live=False))
    machine = os.uname().nodename
    names = {name.partition(" ")[0] for name in found}
    expected = {f"worker.{each}@{machine}" for each in ("usage", "billing-stripe", "maintenance-directory")}
    assert names == expected | {"worker.celery@given"}
    assert set(found.values()) == {None}
    started["usage"].kill()
    started["usage"].wait(10)
    (wrong,) = problems(watched)
    assert wrong.startswith(f"worker.usage@{machine} (queues usage, pid ")
    assert "DuplicateNodename" not in "".join(watched.log(each) for each in started)
