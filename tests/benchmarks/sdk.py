"""`python -m tests.benchmarks.sdk`: meter events per second of one process with the unmodified SDK and 16 threads.

It does nothing else: no database, no Redis, no pace, no metrics. Under the interpreter's lock the threads share one
processor: no process that calls Stripe by its official client is faster, whatever surrounds the calls.
"""

import sys
from typing import Any

import stripe

from tests.benchmarks import simulator as peer
from tests.benchmarks.measure import median

EVENTS = 4_000
KEY = "sk_test_benchmark"
FROZEN = "2026-01-31T10:00:00Z"
FROZEN_SECONDS = 1_769_853_600


def send(port: int, customers: list[str], numbers: range) -> None:
    """Send one event for each number by a client of this thread's own."""
    client: Any = stripe.StripeClient(
        KEY,
        base_addresses={"api": f"http://127.0.0.1:{port}"},
        max_network_retries=0,
        http_client=stripe.RequestsClient(timeout=10),
    )
    for number in numbers:
        customer, key = customers[number % len(customers)], f"report-{number}"
        client.v1.billing.meter_events.create(
            {
                "event_name": "usage",
                "identifier": key,
                "timestamp": FROZEN_SECONDS,
                "payload": {"stripe_customer_id": customer, "value": str(number)},
            },
            {"idempotency_key": key},
        )


def measure() -> list[float]:
    """Events a second, round by round, each in a process of its own."""
    stripe.enable_telemetry = False  # the clients' processes are forked from this one
    with peer.simulator(f"--frozen-time={FROZEN}") as (port, _):
        return peer.rates(send, port, peer.prepare(port), events=EVENTS)


def main() -> None:
    rounds = measure()
    told = " ".join(f"{rate:,.0f}" for rate in rounds)
    sys.stdout.write(f"the SDK alone, one process, 16 threads: {median(rounds):,.0f}/s ({told})\n")


if __name__ == "__main__":
    main()
