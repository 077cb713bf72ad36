"""Whatever moment a sending process is killed at: run again, each account's quantity is in once and nothing is lost."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from tests.billing.bench import Bench
from tests.billing.conftest import BEGIN
from tests.billing.dying import DIED
from tests.billing.population import charge_all
from tests.factories import HOUR
from usage_tasks.celery import app
from usage_tasks.runtime import Runtime
from usage_tasks.services.send import CLAIM_LIMIT

NOON = BEGIN + 2 * HOUR
ACCOUNTS = CLAIM_LIMIT + 1
COMMITS = 4
"""Claim, settle; claim, settle."""

STEPS = [("commit", nth) for nth in range(1, COMMITS + 1)] + [("call", nth) for nth in (1, CLAIM_LIMIT, ACCOUNTS)]
DEATHS = [(step, nth, when, 1) for step, nth in STEPS for when in ("before", "after")]
DEATHS += [(step, 2, when, 3) for step in ("commit", "call") for when in ("before", "after")]


@contextmanager
def dying(bench: Bench, database_url: str) -> Iterator[Callable[..., int]]:
    """A worker that ends where it is told to, and answers its exit code."""
    command = [sys.executable, "-m", "tests.billing.dying", database_url, bench.world.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def die(**death: Any) -> int:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(death) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield die
        process.stdin.close()


def end_leases(bench: Bench) -> None:
    bench.execute("UPDATE meter_report SET claimed_until = clock_timestamp() - interval '1 second'")


def test_a_death_before_and_after_each_call_and_commit_has_each_quantity_in_once(
    bench: Bench, database_url: str
) -> None:
    customers = bench.crowd(ACCOUNTS, at=NOON)
    bench.send()
    expected = [(int(NOON.timestamp()), 5)]
    url = database_url.replace("postgresql://", "postgresql+psycopg://")
    with dying(bench, url) as die:
        for number, (step, nth, when, threads) in enumerate(DEATHS, start=1):
            at = NOON + number * HOUR
            with bench.transaction() as connection:
                charge_all(connection, 100, at=at)
            bench.world.advance(at)
            assert bench.sync(at) == ACCOUNTS
            assert die(step=step, nth=nth, when=when, threads=threads) == DIED, (step, nth, when, threads)
            end_leases(bench)
            bench.send()
            expected.append((int(at.timestamp()), 5 + number))
            for customer in customers.values():
                assert bench.world.meter_events(customer) == expected, (step, nth, when, threads)
    assert {state for _, _, state in bench.reports()} == {"accepted"}


@pytest.mark.parametrize("kind", ["hang_before", "hang_after"])
def test_a_worker_killed_in_the_middle_of_its_calls_has_each_quantity_in_once(
    bench: Bench, rt: Runtime, broker: str, environment: dict[str, str], kind: str
) -> None:
    customers = bench.crowd(40, at=NOON)
    faults = f"{bench.world.url}/_simulator/faults"
    requests.post(faults, json={"kind": kind, "path": "/v1/billing/meter_events", "skip": 12, "seconds": 60}, timeout=5)
    command = [sys.executable, "-m", "celery", "-A", "usage_tasks", "worker", "-Q", "billing", "--pool", "threads"]
    worker = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        app.send_task("billing.send_meter_events", ignore_result=True)
        deadline = time.monotonic() + 60
        while requests.get(faults, timeout=5).json()["counts"].get(kind, 0) == 0:
            assert time.monotonic() < deadline, "the worker made no call"
            time.sleep(0.02)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait(10)
    requests.delete(faults, json={}, timeout=5)
    end_leases(bench)
    bench.send(threads=4)
    for customer in customers.values():
        assert bench.world.meter_events(customer) == [(int(NOON.timestamp()), 5)]
    assert {state for _, _, state in bench.reports()} == {"accepted"}
