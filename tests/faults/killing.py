"""End the process at each step of a Stripe task, one after the other, and lose each of Stripe's answers on its way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from sqlalchemy import Connection

from tests.stripe_world.bench import Bench, CrashError, Wrapped
from usage_tasks.domain.errors import RetryableError
from usage_tasks.storage.engine import Transaction
from usage_tasks.stripe_gateway.protocol import StripeGateway

STEPS_MAX = 60

Work = Callable[[Transaction, StripeGateway], Any]


class Fuse:
    """Allows so many steps, then ends the process."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise CrashError

    def transaction(self, bench: Bench) -> Transaction:
        @contextmanager
        def opened() -> Iterator[Connection]:
            with bench.transaction() as connection:
                yield connection
                self.burn()  # before the commit
            self.burn()  # after it

        return opened


def killed_at_each_step(bench: Bench, begin: Callable[[int], Work]) -> Iterator[int]:
    """Begin new work, kill it at its next step, and yield; at the end no step is left to kill it at.

    A step is the instant before or after a call, before or after a commit.
    """
    for step in range(1, STEPS_MAX):
        work, fuse = begin(step), Fuse(step)
        stripe: Any = Wrapped(bench.stripe, before=fuse.burn, after=fuse.burn)
        try:
            work(fuse.transaction(bench), stripe)
        except CrashError:
            yield step
            continue
        assert step > 2, "nothing was killed"
        return
    pytest.fail("it never ended")


def answers_lost(bench: Bench, begin: Callable[[int], Work], *, kind: str) -> Iterator[int]:
    """Begin new work, cut its next call off before or after its effect, and yield."""
    for number in range(STEPS_MAX):
        work = begin(number)
        faults = f"{bench.world.url}/_simulator/faults"
        rule = requests.post(faults, json={"kind": kind, "skip": number, "count": 1}, timeout=5).json()
        try:
            work(bench.transaction, bench.stripe)
        except RetryableError:
            requests.delete(faults, json={"rule": rule["id"]}, timeout=5)
            yield number
            continue
        requests.delete(faults, json={"rule": rule["id"]}, timeout=5)
        assert number > 0, "nothing was cut"
        return
    pytest.fail("it never ended")


def each_way(bench: Bench, begin: Callable[[int], Work]) -> Iterator[int]:
    """Both, in one go: yield the numbers of works that were interrupted and not run again."""
    yield from killed_at_each_step(bench, begin)
    for offset, kind in ((1000, "cut_before"), (2000, "cut_after")):
        for number in answers_lost(bench, lambda number, offset=offset: begin(offset + number), kind=kind):  # type: ignore[misc]  # mypy can't tell a default's type
            yield offset + number
