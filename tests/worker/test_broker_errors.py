"""Real workers whose Redis answers with an error for a while, or is not what it was: they wait and come back."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest
import redis
from redis.exceptions import RedisError

from tests.conftest import Clone
from tests.server_directory import server_directory
from tests.warm.start import launch
from tests.worker.redis_faults import FAULTS, Fault, configured, replica
from tests.worker.workers import Workers, make_workers, wait_until
from usage_tasks.embedded.processes import child_process
from usage_tasks.embedded.redis import running_redis

BACK_SECONDS_MAX: Final = 15
NOTICED_SECONDS_MAX: Final = 20
POOLS: Final = {"prefork": "maintenance", "threads": "directory"}
BESIDE: Final = "server"
"""A queue that both workers take from beside their own."""

LOST: Final = "Connection to broker lost"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Where the server of this module has its data."""
    with server_directory() as made:
        yield made


@pytest.fixture(scope="module")
def broken_url(directory: Path) -> Iterator[str]:
    """A Redis that may be broken at will."""
    with running_redis(directory / "redis", {}) as running:
        yield running


@pytest.fixture(scope="module")
def database(clone: Clone) -> Iterator[str]:
    """A database that is well."""
    with clone() as url:
        yield url


@pytest.fixture(scope="module")
def installation(broken_url: str, database: str) -> dict[str, str]:
    """The variables of an installation on that Redis."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("USAGE_", "STRIPE_"))}
    return inherited | {
        "DATABASE_URL": database,
        "REDIS_URL": broken_url,
        "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"small": 0.1, "medium": 0.2, "large": 0.5, "xlarge": 1}',
        "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 500, "forUsers": 100}',
        "USAGE_CONTROLLER_SCHEDULE": "1s",
        "CELERY_CONFIG_MODULE": "tests.worker.celeryconfig",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


@pytest.fixture(scope="module")
def started(installation: dict[str, str], broken_url: str, directory: Path) -> Iterator[Workers]:
    """A worker of each pool."""
    made = make_workers(installation, broken_url, directory)
    with made.stack:
        for pool, queue in POOLS.items():
            made.start(pool, f"--pool={pool}", "--concurrency=2", queues=f"{queue},{BESIDE}")
        yield made
    made.redis.close()
    made.sender.close()


@pytest.fixture
def running(started: Workers) -> Iterator[Workers]:
    """The same two for all tests; each test must leave them alive, and working."""
    answer(started)
    yield started
    answer(started)


@pytest.fixture
def admin(broken_url: str) -> Iterator["redis.Redis"]:
    """A connection that is open before the fault."""
    with redis.Redis.from_url(broken_url, single_connection_client=True) as client:
        yield client


def answer(workers: Workers) -> None:
    """Wait until each worker does a task that is sent now; what is lost is sent again, as every sender of ours does."""
    give_up_at = time.monotonic() + BACK_SECONDS_MAX
    for pool, queue in POOLS.items():
        mark = f"answer {time.monotonic()}"
        while not workers.count(f"{mark} ended"):
            assert workers.processes[pool].poll() is None, workers.log(pool)[-3000:]
            assert time.monotonic() < give_up_at, f"{pool}\n{workers.log(pool)[-3000:]}"
            if not workers.redis.llen(f"usage:{queue}"):
                nap(workers, queue, mark)
            time.sleep(0.3)


def nap(workers: Workers, queue: str, mark: str, seconds: float = 0) -> None:
    """Send a task that notes its beginning and its end in Redis."""
    workers.send("maintenance.chaos_nap", queue, kwargs={"mark": mark, "seconds": seconds}, ignore_result=True)


def count_lines(workers: Workers, text: str) -> dict[str, int]:
    """Return how often each worker has logged a text."""
    return {pool: workers.log(pool).count(text) for pool in POOLS}


def await_line(workers: Workers, text: str, before: dict[str, int]) -> None:
    """Wait until each worker has logged a text once more."""
    wait_until(
        lambda: all(each > before[pool] for pool, each in count_lines(workers, text).items()),
        seconds=NOTICED_SECONDS_MAX,
    )


@pytest.mark.holds("lesson.broker-answers")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_worker_waits_for_whatever_redis_answers(
    running: Workers, admin: "redis.Redis", directory: Path, fault: Fault
) -> None:
    for queue in POOLS.values():
        nap(running, queue, fault.__name__, 0.5)
    wait_until(lambda: running.count(f"{fault.__name__} begun") >= len(POOLS))
    lost = count_lines(running, LOST)
    with fault(admin, directory / "redis"):
        await_line(running, LOST, lost)


@pytest.mark.holds("lesson.broker-answers")
def test_what_met_the_error_is_done_when_redis_is_well_again_and_the_answer_is_logged_once(
    running: Workers, admin: "redis.Redis", directory: Path
) -> None:
    for pool, queue in POOLS.items():
        nap(running, queue, pool, 1)
        sending = {"mark": f"{pool} sent", "seconds": 1, "queue": queue}
        running.send("maintenance.chaos_send", queue, kwargs=sending, ignore_result=True)
    wait_until(lambda: all(running.count(f"{pool} begun") for pool in POOLS))
    refused = count_lines(running, "broker.refuses")
    with replica(admin, directory):
        await_line(running, "broker.refuses", refused)
        time.sleep(1.5)  # long enough for three probes
    wait_until(lambda: all(running.count(f"{pool} ended") and running.count(f"{pool} sent ended") for pool in POOLS))
    assert count_lines(running, "broker.refuses") == {pool: each + 1 for pool, each in refused.items()}


def test_what_a_worker_takes_from_a_redis_whose_memory_is_full_is_not_lost(
    running: Workers, admin: "redis.Redis"
) -> None:
    waiting = {pool: [f"full {pool} {number}" for number in range(6)] for pool in POOLS}
    for pool, queue in POOLS.items():
        for mark in waiting[pool]:
            nap(running, queue, mark, 1)
    wait_until(lambda: all(running.count(f"{marks[0]} begun") for marks in waiting.values()))
    before = count_lines(running, "broker.refuses")
    with configured(admin, maxmemory=1):
        await_line(running, "broker.refuses", before)
    wait_until(lambda: all(running.count(f"{mark} ended") for marks in waiting.values() for mark in marks))


def test_a_redis_that_was_flushed_is_taken_as_it_is(running: Workers) -> None:
    for queue in POOLS.values():
        nap(running, queue, "flushed", 0.5)
    running.redis.flushall()


@pytest.mark.parametrize("key", [BESIDE, "maintenance", "unacked", "unacked_index", "_kombu.binding.celery.pidbox"])
def test_a_key_of_a_wrong_type_is_moved_aside_and_ends_no_worker(running: Workers, key: str) -> None:
    running.redis.delete(f"usage:{key}")
    running.redis.set(f"usage:{key}", "somebody's")
    if key.startswith("_kombu"):  # read when a worker connects
        running.redis.client_kill_filter(_type="pubsub", skipme=True)
        wait_until(lambda: running.redis.type(f"usage:{key}") == b"set", seconds=BACK_SECONDS_MAX)
    answer_despite(running)
    aside = list(running.redis.scan_iter(f"usage:wrong_type:usage:{key}:*"))
    assert [running.redis.get(each) for each in aside] == [b"somebody's"]


def answer_despite(workers: Workers) -> None:
    """Wait until both workers answer, though a queue cannot be sent to."""
    give_up_at = time.monotonic() + BACK_SECONDS_MAX
    while time.monotonic() < give_up_at:
        with suppress(RedisError, AssertionError):
            answer(workers)
            return
        time.sleep(0.2)
    raise AssertionError(workers.log("prefork")[-3000:])


def test_a_worker_and_a_beat_that_start_meanwhile_wait_and_one_that_waits_can_be_stopped(
    running: Workers, admin: "redis.Redis", directory: Path, installation: dict[str, str]
) -> None:
    program = [sys.executable, "-m", "celery", "-A", "tests.chaos.app"]
    talkative = [*program, "worker", "--concurrency=1", "--loglevel=INFO", "-E"]  # with mingle and gossip
    commands = {
        "late": [*talkative, "--queues=billing", "--hostname=late@test"],
        "stopped": [*talkative, "--queues=stripe", "--hostname=stopped@test"],
        "beat": [*program, "beat", "--pidfile=", "--loglevel=INFO"],
    }
    with ExitStack() as stack, replica(admin, directory):
        processes = {
            name: stack.enter_context(
                child_process(
                    command, name=name, log=directory / f"{name}.log", environment=installation, launcher=launch
                )
            )
            for name, command in commands.items()
        }
        wait_until(lambda: all("broker.refuses" in running.log(name) for name in commands))
        processes["stopped"].send_signal(signal.SIGTERM)
        assert processes["stopped"].wait(10) == 0
        admin.replicaof("NO", "ONE")
        wait_until(
            lambda: " ready." in running.log("late") and running.redis.llen("usage:usage") > 0, seconds=BACK_SECONDS_MAX
        )
