"""A worker that dies: `python -m tests.billing.dying DATABASE_URL API_BASE`, told by lines of JSON when to.

For each line a child is forked that sends what is due and ends by `os._exit` before or after its nth call or commit, as
a process does that is killed: nothing is unwound, nothing is closed. Its exit code is answered.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import stripe
from sqlalchemy import Connection

from tests.billing.world import EVENT_NAME, KEY
from usage_tasks.domain.payments import MeterEvent
from usage_tasks.services.send import send_reports
from usage_tasks.storage.engine import Database
from usage_tasks.stripe_gateway.live import LiveGateway
from usage_tasks.telemetry.logs import configure_logging

DIED = 9


class Death:
    """Comes at the nth time that something is about to be, or was just, done."""

    def __init__(self, *, step: str, nth: int, when: str) -> None:
        self._step, self._nth, self._when = step, nth, when
        self._lock, self._count = threading.Lock(), 0

    @contextmanager
    def around(self, step: str) -> Iterator[None]:
        with self._lock:
            self._count += step == self._step
            comes = step == self._step and self._count == self._nth
        if comes and self._when == "before":
            os._exit(DIED)
        yield
        if comes:
            os._exit(DIED)


def work(database_url: str, api_base: str, death: Death, threads: int) -> None:
    database = Database(database_url)
    gateway: Any = LiveGateway(secret_key=KEY, meter_event_name=EVENT_NAME, api_base=api_base)
    send: Callable[[MeterEvent], None] = gateway.send_meter_event

    def call(event: MeterEvent) -> None:
        with death.around("call"):
            send(event)

    gateway.send_meter_event = call

    @contextmanager
    def transaction() -> Iterator[Connection]:
        with database._engine.connect() as connection:
            yield connection
            with death.around("commit"):
                connection.commit()

    send_reports(transaction, gateway, limit=1000, threads=threads)


def main(database_url: str, api_base: str) -> None:
    configure_logging("WARNING")  # to standard error: answers go to standard output
    stripe.enable_telemetry = False
    for line in sys.stdin:
        asked = json.loads(line)
        threads = asked.pop("threads")
        child = os.fork()
        if child == 0:
            work(database_url, api_base, Death(**asked), threads)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
