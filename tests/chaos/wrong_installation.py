"""A worker of another installation is pointed at the Redis, and the Redis is flushed."""

import subprocess
import sys
import time
from datetime import timedelta
from typing import Final

import psycopg

from tests.chaos.faults import RECOVERY_SECONDS_MAX, Line, begin, line, works
from tests.chaos.world import World
from tests.warm import start
from usage_tasks.coordination.installation import find_holder

_OTHER: Final = "other_installation"
_REFUSED: Final = 2


def wrong_installation(world: World) -> Line:
    """Refuse a worker of another installation, flush the Redis: the id is written again, and no message is lost.

    The world has a worker `work` and a beat; the line has the seconds from the flush until both are as before.
    """
    name = begin("a worker of another installation")
    works(world)
    environment = world.environment | {"DATABASE_URL": _make_database(world), "USAGE_TEST_CLOCK": "false"}
    world.wait("the first id", lambda: find_holder(world.redis) is not None)  # another fault may have flushed it
    held = find_holder(world.redis) or ""
    _run("usage_tasks.cli", "migrate", environment=environment)
    command = ("celery", "-A", "tests.chaos.app", "worker", "--queues=usage,billing,stripe,maintenance", "--pool=solo")
    refused = _run(*command, environment=environment)
    assert (refused.returncode, held in refused.stderr) == (_REFUSED, True), refused.stderr
    works(world)
    now = world.clock.now()
    world.redis.flushall()
    world.clock.advance(now + timedelta(days=1))  # the tests' clock is in there too
    began = time.monotonic()
    world.wait("the id", lambda: find_holder(world.redis) == held)
    works(world)
    seconds = time.monotonic() - began
    refused = _run(*command, environment=environment)
    assert (refused.returncode, held in refused.stderr) == (_REFUSED, True), refused.stderr
    told = "refused with code 2, twice; the id is written again after a flush"
    return line(name, told, seconds, RECOVERY_SECONDS_MAX)


def _make_database(world: World) -> str:
    with psycopg.connect(world.database_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {_OTHER}")
    return world.database_url.rpartition("/")[0] + f"/{_OTHER}"


def _run(*command: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return start.run([sys.executable, "-m", *command], env=environment, timeout=120)
