"""A real worker that gets signals at any moment ends with code 0, without a traceback, and keeps no message."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.worker.workers import OURS, SECONDS_MAX, Workers, wait_until

POOLS = {"prefork": ("--pool=prefork", "--concurrency=2"), "threads": ("--pool=threads", "--concurrency=4")}
NAP = "maintenance.chaos_nap"
MARK = "signals"


@pytest.fixture
def short_grace(workers: Workers) -> Workers:
    workers.environment["CELERY_CONFIG_MODULE"] = "tests.worker.celeryconfig"
    return workers


def given_back(workers: Workers) -> int:
    waiting: Any = workers.redis.llen("usage:maintenance")
    return int(waiting)


def is_clean(log: str) -> bool:
    return "Traceback" not in log and "raised:" not in log and "Unrecoverable" not in log


@pytest.mark.timeout(90)
@pytest.mark.parametrize("pool", POOLS)
def test_many_sigterms_are_one(workers: Workers, pool: str) -> None:
    worker = workers.start("worker", *POOLS[pool])
    workers.send(NAP, kwargs={"mark": MARK, "seconds": 2})
    wait_until(lambda: workers.count(f"{MARK} begun"))
    for _ in range(20):
        worker.send_signal(signal.SIGTERM)
        time.sleep(random.uniform(0, 0.01))
    assert worker.wait(SECONDS_MAX) == 0
    assert is_clean(workers.log("worker"))
    assert workers.count(f"{MARK} ended") == 1  # the first was warm, and the others made it no colder


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", POOLS)
def test_after_many_sigterms_a_long_task_is_cut_short_once_and_its_message_is_given_back(
    short_grace: Workers, pool: str
) -> None:
    worker = short_grace.start("worker", *POOLS[pool])
    short_grace.send(NAP, kwargs={"mark": MARK, "seconds": 50})
    wait_until(lambda: short_grace.count(f"{MARK} begun"))
    for _ in range(20):
        worker.send_signal(signal.SIGTERM)
        time.sleep(random.uniform(0, 0.05))
    assert worker.wait(SECONDS_MAX) == 0
    assert is_clean(short_grace.log("worker")), short_grace.log("worker")
    assert given_back(short_grace) == 1


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("pool", "first", "second"),
    [
        ("prefork", signal.SIGTERM, signal.SIGQUIT),
        ("prefork", signal.SIGQUIT, signal.SIGTERM),
        ("threads", signal.SIGTERM, signal.SIGQUIT),
        ("threads", signal.SIGINT, signal.SIGINT),
    ],
)
def test_a_second_signal_that_is_sharper_ends_the_worker_in_order(
    short_grace: Workers, pool: str, first: signal.Signals, second: signal.Signals
) -> None:
    worker = short_grace.start("worker", *POOLS[pool])
    short_grace.send(NAP, kwargs={"mark": MARK, "seconds": 50})
    wait_until(lambda: short_grace.count(f"{MARK} begun"))
    worker.send_signal(first)
    time.sleep(0.2)
    worker.send_signal(second)
    assert worker.wait(SECONDS_MAX) == 0
    assert is_clean(short_grace.log("worker")), short_grace.log("worker")
    assert given_back(short_grace) == 1


@pytest.mark.timeout(180)
def test_sigterms_while_it_starts_end_it_without_a_word(workers: Workers, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "celery", "-A", OURS, "worker", "--queues=maintenance", "--hostname=w@test"]
    environment = workers.environment | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    for moment in (0.3, 1.5, 2.2, 3):
        log = tmp_path / f"{moment}.log"
        with log.open("w") as output:
            worker = subprocess.Popen([*command, *POOLS["prefork"]], env=environment, stdout=output, stderr=output)
            time.sleep(moment)
            for _ in range(3):
                worker.send_signal(signal.SIGTERM)
                time.sleep(0.01)
            assert worker.wait(SECONDS_MAX) in (0, -signal.SIGTERM), log.read_text()
        assert is_clean(log.read_text()), log.read_text()
