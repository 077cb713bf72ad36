"""Two whole installations: a migrated database each, on one Redis."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from celery import Celery

from tests.warm import start
from usage_tasks.coordination.clock import TestClock
from usage_tasks.coordination.keyspace import prefixed

WORKER = ("-m", "celery", "-A", "usage_tasks", "worker", "--queues=usage", "--pool=solo", "--without-mingle")
BEAT = ("-m", "celery", "-A", "usage_tasks", "beat")


def make_app(url: str, prefix: str) -> Celery:
    """Return a Celery application of a platform that sends to an installation."""
    app = Celery("platform", broker=url, backend=url, set_as_current=False)
    options = {"global_keyprefix": prefix, "socket_connect_timeout": 1}
    app.conf.update(
        broker_transport_options=options,
        result_backend_transport_options={"global_keyprefix": prefix},
        task_publish_retry_policy={"max_retries": 0},
    )
    return app


def advance_clock(client: Any, prefix: str, to: Any) -> None:
    """Set the test clock of an installation."""
    TestClock(prefixed(client, prefix)).advance(to)


def run(*command: str, environment: Mapping[str, str], seconds: float = 60) -> "subprocess.CompletedProcess[str]":
    """Run a Python module to its end."""
    return start.run([sys.executable, *command], env=environment, timeout=seconds)


def usage_tasks(*arguments: str, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command."""
    return run("-m", "usage_tasks", *arguments, environment=environment)
