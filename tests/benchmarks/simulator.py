"""`python -m tests.benchmarks.simulator`: how many meter events a second Stripe's stand-in takes from 16 connections.

The clients are bare sockets in processes of their own, so that the figure is the stand-in's ceiling and not the SDK's.
Both share the machine's cores: on a busy machine the stand-in's own CPU time per event is a better measure than the
rate.
"""

import http.client
import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from tests.benchmarks.measure import cpu_seconds, median
from usage_tasks.embedded.processes import free_port

Sender = Callable[[int, list[str], range], None]
"""Sends an event for each number to a port, over a connection of its own."""

THREADS = 16
CUSTOMERS = 2_000
EVENTS = 16_000
ROUNDS = 3
_HEADERS = {"Authorization": "Bearer sk_test_benchmark", "Content-Type": "application/x-www-form-urlencoded"}


@contextmanager
def simulator(*arguments: str) -> Iterator[tuple[int, int]]:
    """The port and the process id of a separate stand-in."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "usage_tasks.stripe_simulator", f"--port={port}", *arguments])
    try:
        while process.poll() is None:  # it ends at once if it refuses its arguments
            try:
                http.client.HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/_simulator/health")
                break
            except OSError:
                time.sleep(0.05)
        else:
            raise RuntimeError(f"the stand-in ended with {process.returncode}")
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


def post(connection: http.client.HTTPConnection, path: str, form: dict[str, str], *, key: str = "") -> str:
    """Post a form and return the id of the new object."""
    headers = _HEADERS | ({"Idempotency-Key": key} if key else {})
    connection.request("POST", path, body=urlencode(form), headers=headers)
    response = connection.getresponse()
    body = json.loads(response.read())
    if response.status != http.HTTPStatus.OK:
        raise RuntimeError(f"{path}: {body}")
    return str(body.get("id", ""))


def send(port: int, customers: list[str], numbers: range) -> None:
    """Send one event for each number over one connection, each with an identifier and a key of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for number in numbers:
        customer = customers[number % len(customers)]
        form = {"event_name": "usage", "identifier": f"report-{number}", "payload[value]": str(number)}
        payload = {"payload[stripe_customer_id]": customer}
        post(connection, "/v1/billing/meter_events", form | payload, key=f"report-{number}")
    connection.close()


def send_all(send_some: Sender, port: int, customers: list[str], numbers: range) -> None:
    """Send the events of a round from 16 threads."""
    lanes = [numbers[lane::THREADS] for lane in range(THREADS)]
    threads = [threading.Thread(target=send_some, args=(port, customers, lane)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def rates(send_some: Sender, port: int, customers: list[str], *, events: int = EVENTS) -> list[float]:
    """Events a second until the last answer is there, round by round, each sent by a process of its own."""
    measured = []
    for number in range(ROUNDS):
        numbers = range(number * events, (number + 1) * events)
        client = multiprocessing.get_context("fork").Process(
            target=send_all, args=(send_some, port, customers, numbers)
        )
        started = time.perf_counter()
        client.start()
        client.join()
        measured.append(events / (time.perf_counter() - started))
        if client.exitcode != 0:
            raise RuntimeError("a client failed")
    return measured


def prepare(port: int) -> list[str]:
    """Make a meter and customers; return the customers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    meter = {"display_name": "Usage", "event_name": "usage", "default_aggregation[formula]": "last"}
    post(connection, "/v1/billing/meters", meter)
    return [post(connection, "/v1/customers", {"name": str(number)}) for number in range(CUSTOMERS)]


def measure(*arguments: str) -> tuple[list[float], float]:
    """Events a second, round by round; and the stand-in's CPU time of one, in microseconds."""
    with simulator(*arguments) as (port, process):
        customers = prepare(port)
        used_seconds = cpu_seconds(process)
        measured = rates(send, port, customers)
        used_seconds = cpu_seconds(process) - used_seconds
    return measured, 1e6 * used_seconds / (ROUNDS * EVENTS)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="simulator-bench-") as directory:
        variants = {
            "in memory, frozen clock": ("--frozen-time=2026-01-31T10:00:00Z",),
            "in memory, real clock": (),
            "in a file, frozen clock": ("--frozen-time=2026-01-31T10:00:00Z", f"--state={Path(directory) / 'state'}"),
        }
        for name, arguments in variants.items():
            measured, microseconds = measure(*arguments)
            rounds = " ".join(f"{rate:,.0f}" for rate in measured)
            sys.stdout.write(
                f"{name}: {median(measured):,.0f} events/s (rounds {rounds}), {microseconds:,.0f} us CPU an event\n"
            )


if __name__ == "__main__":
    main()
