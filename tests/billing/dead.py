"""A process that dies at a step: nothing that it would still do, such as to tidy up, reaches Stripe or the database."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection

from tests.billing.bench import CrashError
from usage_tasks.storage.engine import Database


class Fuse:
    """Counts calls and commits, and ends the process at one of them: `call 2 before`, say. Without one it only counts.

    A call is one operation at Stripe: the fuse is the gateway's admission, which stands around each of them.
    """

    def __init__(self, at: str = "") -> None:
        self._at, self.dead = at, False
        self.counts = {"call": 0, "commit": 0}
        self.calls_in_transaction = 0
        self._open = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        self._check()
        self.calls_in_transaction += self._open
        self.counts["call"] += 1
        step = f"call {self.counts['call']}"
        self._burn(f"{step} before")
        yield
        self._burn(f"{step} after")

    @contextmanager
    def transaction(self, opened: AbstractContextManager[Connection]) -> Iterator[Connection]:
        self._check()
        step = ""
        with opened as connection:
            self._open += 1
            try:
                yield connection
                self.counts["commit"] += 1
                step = f"commit {self.counts['commit']}"
                self._burn(f"{step} before")
            finally:
                self._open -= 1
        self._burn(f"{step} after")

    def steps(self) -> list[str]:
        """Every instant at which the process that was counted could have died."""
        return [
            f"{what} {number} {when}"
            for what, count in self.counts.items()
            for number in range(1, count + 1)
            for when in ("before", "after")
        ]

    def _burn(self, step: str) -> None:
        self.dead = self.dead or step == self._at
        self._check()

    def _check(self) -> None:
        if self.dead:
            raise CrashError


class MortalDatabase(Database):
    """A database as a process sees it that a fuse may end."""

    def __init__(self, database: Database, fuse: Fuse) -> None:
        self._engine, self._fuse = database._engine, fuse

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._fuse.transaction(super().transaction()) as connection:
            yield connection
