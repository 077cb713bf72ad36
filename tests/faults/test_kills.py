"""At whatever moment a sending process is killed: after another run each quantity arrived once and nothing is lost."""

import signal
import subprocess
import sys
import time

import pytest
import requests

from tests.factories import HOUR
from tests.faults.deaths import Mortals
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.population import charge_all
from usage_tasks.celery import app
from usage_tasks.runtime import Runtime
from usage_tasks.services.metering.send_reports import CLAIM_LIMIT

NOON = BEGIN + 2 * HOUR
ACCOUNTS = CLAIM_LIMIT + 1
COMMITS = 4
"""Claim, settle; claim, settle."""

STEPS = [f"commit {nth}" for nth in range(1, COMMITS + 1)] + [f"call {nth}" for nth in (1, CLAIM_LIMIT, ACCOUNTS)]
DEATHS = [(f"{step} {when}", 1) for step in STEPS for when in ("before", "after")]
DEATHS += [(f"{step} 2 {when}", 3) for step in ("commit", "call") for when in ("before", "after")]


def end_leases(bench: Bench) -> None:
    bench.execute("UPDATE meter_report SET claimed_until = clock_timestamp() - interval '1 second'")


@pytest.mark.holds("stripe.killed-worker")
def test_a_death_before_and_after_each_call_and_commit_has_each_quantity_in_once(
    bench: Bench, rt: Runtime, mortals: Mortals
) -> None:
    customers = bench.crowd(ACCOUNTS, at=NOON)
    bench.send()
    expected = [(int(NOON.timestamp()), 5)]
    for number, (step, threads) in enumerate(DEATHS, start=1):
        at = NOON + number * HOUR
        with bench.transaction() as connection:
            charge_all(connection, 100, at=at)
        bench.world.advance(at)
        assert bench.sync(at) == ACCOUNTS
        mortals.run(bench, at=step, threads=threads)
        end_leases(bench)
        bench.send()
        expected.append((int(at.timestamp()), 5 + number))
        for customer in customers.values():
            assert bench.world.meter_events(customer) == expected, (step, threads)
    assert {state for _, _, state in bench.reports()} == {"accepted"}


@pytest.mark.holds("stripe.killed-worker")
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
