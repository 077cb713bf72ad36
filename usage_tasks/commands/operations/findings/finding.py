"""A finding of `usage-tasks doctor`, and what every check of it works with."""

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Final

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from usage_tasks.celery import app
from usage_tasks.runtime import Runtime
from usage_tasks.settings import SettingsError, is_stripe_configured
from usage_tasks.telemetry.clocks import Clocks

ANSWER_SECONDS: Final = 1.0
"""A worker answers in milliseconds, also while its tasks run."""


class Verdict(StrEnum):
    """The outcome of a check; only `wrong` makes the exit code 1."""

    FINE = "fine"
    LOOK = "look"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorFinding:
    """One check: what was found, and what to do about it."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


Findings = Iterator[DoctorFinding]


def fine(check: str, found: str) -> DoctorFinding:
    """Return a finding that needs nothing."""
    return DoctorFinding(check=check, verdict=Verdict.FINE, found=found)


def look(check: str, found: str, advice: str) -> DoctorFinding:
    """Return a finding that somebody must look at."""
    return DoctorFinding(check=check, verdict=Verdict.LOOK, found=found, advice=advice)


def wrong(check: str, found: str, advice: str) -> DoctorFinding:
    """Return a finding that must be mended."""
    return DoctorFinding(check=check, verdict=Verdict.WRONG, found=found, advice=advice)


def count(number: int, one: str, several: str = "") -> str:
    """Return a number with its noun."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def describe_error(error: Exception) -> str:
    """Return an error in one line."""
    if isinstance(error, SettingsError):
        return error.line
    return "; ".join(str(error).strip().splitlines())


@dataclass(kw_only=True)
class Examination:
    """One run of the doctor: connections, environment, the clocks that were read, the workers that answered."""

    rt: Runtime
    environ: Mapping[str, str]
    clocks: Clocks = field(default_factory=Clocks)

    @cached_property
    def uses_stripe(self) -> bool:
        """True if the installation has prices in Stripe, or this environment has a key of it."""
        return is_stripe_configured(self.rt.settings, self.environ)

    @cached_property
    def workers(self) -> Mapping[str, frozenset[str]]:
        """The queues of each worker that answers within a second, by the worker's node name.

        A worker that does not answer may work all the same: its remote control may be switched off.
        """
        try:
            with app.connection_for_read(self.rt.settings.redis_url) as connection:
                answers = app.control.inspect(connection=connection, timeout=ANSWER_SECONDS).active_queues()
        except (OperationalError, RedisError, OSError):
            answers = None
        return {node: frozenset(each["name"] for each in queues) for node, queues in (answers or {}).items()}

    def is_served(self, queue: str) -> bool:
        """Return True if a worker answers that takes messages of a queue."""
        return any(queue in queues for queues in self.workers.values())

    def is_served_elsewhere(self, queue: str) -> bool:
        """Return True if a worker of a queue answers from another host, whose environment this one does not show."""
        here = socket.gethostname()
        return any(queue in queues and node.partition("@")[2] != here for node, queues in self.workers.items())
