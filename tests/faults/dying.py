"""Processes that die: `python -m tests.faults.dying`. Lines of JSON order a task and the step to die at.

For each line a child is forked. It makes its own runtime, as a worker's child does: connections of its own to the
database, Redis and Stripe. It runs the task and kills itself at a step: the instant before or after a call or a commit.
As with any SIGKILL nothing is unwound, closed or released. It reports its steps before it dies; its parent reports its
exit code. The parent has imported everything, holds no connection and has no second thread.
"""

import gc
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import Connection, event

from usage_tasks.celery import app
from usage_tasks.domain.errors import PermanentError
from usage_tasks.runtime import runtime
from usage_tasks.services.metering.send_reports import send_reports
from usage_tasks.storage.engine import Database
from usage_tasks.telemetry.logs import configure_logging


class Fuse:
    """Notes each step of this process, and kills it at one of them, for example at `call 2 before`.

    A call is one operation at Stripe: the fuse stands inside the gateway's admission, around each of them.
    """

    def __init__(self, at: str, admission: Callable[[], AbstractContextManager[None]]) -> None:
        self._at, self._admission = at, admission
        self._lock = threading.Lock()
        self._counts = {"call": 0, "commit": 0}
        self._open = 0
        self.steps: list[str] = []
        self.backends: list[int] = []
        self.calls_in_transaction = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        with self._admission():
            self.calls_in_transaction += self._open
            call = self._next("call")
            self._come_to(f"{call} before")
            try:
                yield
            finally:
                self._come_to(f"{call} after")

    @contextmanager
    def transaction(self, opened: AbstractContextManager[Connection]) -> Iterator[Connection]:
        with opened as connection:
            self._open += 1
            try:
                yield connection
            finally:
                self._open -= 1
            commit = self._next("commit")
            self._come_to(f"{commit} before")
        self._come_to(f"{commit} after")

    def _next(self, what: str) -> str:
        with self._lock:
            self._counts[what] += 1
            return f"{what} {self._counts[what]}"

    def _come_to(self, step: str) -> None:
        self.steps.append(step)
        if step == self._at:
            self.tell()
            os.kill(os.getpid(), signal.SIGKILL)

    def tell(self) -> None:
        """Report the steps of this process."""
        told = {
            "steps": self.steps,
            "backends": self.backends,
            "calls_in_transaction": self.calls_in_transaction,
        }
        os.write(sys.stdout.fileno(), json.dumps(told).encode() + b"\n")


class MortalDatabase(Database):
    """A database as a process sees it that a fuse may end."""

    def __init__(self, database: Database, fuse: Fuse) -> None:
        self._engine, self._fuse = database._engine, fuse
        event.listen(self._engine, "connect", lambda driver, _: fuse.backends.append(driver.info.backend_pid))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._fuse.transaction(super().transaction()) as connection:
            yield connection


def obey(order: dict[str, Any]) -> None:
    """Run a task, or only send the due reports with so many threads. A refusal is an end, too."""
    os.environ.update(order["environment"])
    rt = runtime()
    gateway: Any = rt.stripe
    fuse = Fuse(order["at"], gateway._admission)
    gateway._admission = fuse.call
    rt.database = MortalDatabase(rt.database, fuse)
    try:
        if "task" in order:
            app.tasks[order["task"]](**order["arguments"])
        else:
            send_reports(rt.transaction, rt.stripe, limit=1000, threads=order["threads"])
    except PermanentError:
        pass
    fuse.tell()


def _import_all() -> None:
    """Import the modules that each child would otherwise import at its first call of a kind."""
    app.loader.import_default_modules()
    app.finalize()
    Database("postgresql+psycopg://nobody@localhost/nobody").dispose()  # not connected


def main() -> None:
    configure_logging("ERROR")  # to standard error: answers go to standard output
    _import_all()
    gc.freeze()
    gc.disable()  # a child is gone before it would be worth it
    for line in sys.stdin:
        order = json.loads(line)
        for name in order.pop("imports"):
            importlib.import_module(name)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                obey(order)
                code = 0
            finally:
                if code:
                    traceback.print_exc()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps({"exit": os.waitstatus_to_exitcode(status)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
