"""What the receiver needs to know of the installation: plain values, read by a short-lived process of their own.

The process that serves then holds neither pydantic nor what Celery's settings import, a quarter of its memory.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final

READ_SECONDS_MAX: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """Plain values only: they travel as JSON."""

    secrets: Sequence[str]
    thin_secrets: Sequence[str]
    redis_url: str
    refusals_per_minute: int
    trusted_proxies: Sequence[str]
    broker: Mapping[str, Any]
    """The fields of publishing.Broker."""


@cache
def read_installed() -> Installed:
    """Have a process of its own read the configuration, once; processes that are forked from this one inherit it.

    Raises SystemExit with the exit code of that process, which has said what is wrong.
    """
    command = [sys.executable, "-m", "usage_tasks.webhook_app.configuration"]
    read = subprocess.run(command, stdout=subprocess.PIPE, timeout=READ_SECONDS_MAX, check=False)  # noqa: S603 - ours
    if read.returncode:
        raise SystemExit(read.returncode)
    return Installed(**json.loads(read.stdout))


def as_json(installed: Installed) -> str:
    """How the values travel."""
    return json.dumps(asdict(installed))
