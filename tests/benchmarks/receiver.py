"""The receiver's throughput, beside its bounds: bare publishing, the bare server, HMAC and one LPUSH.

The load tool is wrk (Debian's package): 32 connections, one signed event of 2.3 kB over and over. Half of the ceiling
is reached by a pause between a connection's requests; the figure shows the resulting rate.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis import Redis

from tests.benchmarks.measure import Figure, median
from tests.webhook_app.conftest import Receiver, make_event, running_receiver, sign
from tests.webhook_app.receiver import configuration, make_celery
from usage_tasks.embedded.processes import scratch_directory
from usage_tasks.embedded.redis import running_redis
from usage_tasks.embedded.servers import Servers
from usage_tasks.stripe_gateway.webhooks import VerifiedEvent
from usage_tasks.webhook_app.publishing import BATCH_MAX, Publisher

CONNECTIONS: Final = 32
SECONDS: Final = 4
PUBLISHED: Final = 3_000
ROUNDS: Final = 3
SHARE_MIN: Final = 0.6
P99_MILLISECONDS_MAX: Final = 50
BODY: Final = make_event(padding="x" * 2_160)
_SERVE: Final = (
    "import sys; from usage_tasks.webhook_app.serving import run_server; "
    "run_server('{}', '127.0.0.1', int(sys.argv[1]))"
)
OURS: Final = "tests.webhook_app.receiver:app"
BESIDE: Final = {
    "the same server answering 200 at once": "tests.benchmarks.receiver_apps:at_once",
    "the same server, HMAC and one bare LPUSH": "tests.benchmarks.receiver_apps:bare",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The results of one run of wrk."""

    per_second: float
    p99_milliseconds: float


def bench_receiver(servers: Servers, directory: Path) -> Iterator[Figure]:
    """Every figure of the receiver."""
    if shutil.which("wrk") is None:
        sys.stderr.write("receiver: skipped, there is no wrk (Debian: apt install wrk)\n")
        return
    broker = servers.redis_url
    held = [publish_held(broker) for _ in range(ROUNDS)]
    yield _figure("publishing with a held producer, nothing else", held, "/s")
    yield _figure(
        "publishing as the receiver does, nothing else", [publish_batched(broker) for _ in range(ROUNDS)], "/s"
    )
    for name, target in BESIDE.items():
        with _running(directory, broker, target) as receiver:
            yield _figure(name, [load(receiver, directory).per_second for _ in range(ROUNDS)], "/s")
        _empty(broker)
    with _running(directory, broker, OURS) as receiver:
        loads = []
        for _ in range(ROUNDS):
            loads.append(load(receiver, directory))
            _empty(broker)
        ceiling = median([each.per_second for each in loads])
        yield Figure(
            name="the receiver",
            value=ceiling,
            unit="/s",
            beside="held producer",
            beside_value=median(held),
            bound=f"at least {SHARE_MIN:.0%} of the held producer",
            holds=ceiling >= SHARE_MIN * median(held),
            rounds=[each.per_second for each in loads],
        )
        yield _figure("the receiver, p99 at its ceiling", [each.p99_milliseconds for each in loads], "ms")
        halves = [_half(receiver, directory, ceiling, broker) for _ in range(ROUNDS)]
        p99 = median([each.p99_milliseconds for each in halves])
        reached = median([each.per_second for each in halves])
        yield Figure(
            name=f"the receiver, p99 at {reached:.0f} a second, {reached / ceiling:.0%} of its ceiling",
            value=p99,
            unit="ms",
            beside="",
            beside_value=None,
            bound=f"below {P99_MILLISECONDS_MAX} ms",
            holds=p99 < P99_MILLISECONDS_MAX,
            rounds=[each.p99_milliseconds for each in halves],
        )


def _half(receiver: Receiver, directory: Path, ceiling: float, broker: str) -> Load:
    pause = 1000 * CONNECTIONS / (ceiling / 2)
    found = load(receiver, directory, pause_milliseconds=pause - 1000 * CONNECTIONS / ceiling / 4)
    _empty(broker)
    return found


def load(receiver: Receiver, directory: Path, *, pause_milliseconds: float = 0) -> Load:
    """Have wrk send the event for a while; every answer must be 200."""
    script = directory / "wrk.lua"
    delay = ""
    if pause_milliseconds:
        longest = int(2 * pause_milliseconds)
        delay = f"function delay() return math.random(0, {longest}) end\n"
    script.write_text(
        'wrk.method = "POST"\n'
        f'wrk.headers["Stripe-Signature"] = "{sign(BODY)}"\n'
        f"wrk.body = [==[{BODY.decode()}]==]\n{delay}"
    )
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", str(script)]
    told = subprocess.run(
        [*command, f"http://127.0.0.1:{receiver.port}/webhook"], capture_output=True, text=True, check=True
    ).stdout
    assert "Non-2xx" not in told, told
    per_second = re.search(r"Requests/sec:\s+([\d.]+)", told)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", told)
    assert per_second
    assert p99
    return Load(
        per_second=float(per_second[1]), p99_milliseconds=float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]]
    )


def publish_held(broker: str) -> float:
    """Publish the same messages one after the other with Celery's held producer; return the messages per second."""
    celery_app = make_celery(broker)
    arguments = {"event_id": "evt_1", "payload": BODY.decode()}
    with celery_app.producer_pool.acquire(block=True) as producer:
        started = time.perf_counter()
        for _ in range(PUBLISHED):
            celery_app.send_task(
                "stripe.receive_event", kwargs=arguments, task_id="evt_1", producer=producer, ignore_result=True
            )
        taken = time.perf_counter() - started
    _empty(broker)
    return PUBLISHED / taken


def publish_batched(broker: str) -> float:
    """Publish them as the receiver does, in batches of the waiting messages; return the messages per second."""
    publisher = Publisher(configuration(broker).broker)
    event = VerifiedEvent(event_id="evt_1", event_type="x", body=BODY.decode())
    started = time.perf_counter()
    for _ in range(PUBLISHED // BATCH_MAX):
        for confirmed in [publisher.submit(event) for _ in range(BATCH_MAX)]:
            confirmed.result(10)
    taken = time.perf_counter() - started
    _empty(broker)
    return PUBLISHED / taken


@contextmanager
def _running(directory: Path, broker: str, target: str) -> Iterator[Receiver]:
    with running_receiver(directory, broker, code=_SERVE.format(target)) as running:
        yield running


def _empty(broker: str) -> None:
    with Redis.from_url(broker) as redis:
        redis.delete("stripe", "bare")


def _figure(name: str, rounds: list[float], unit: str) -> Figure:
    return Figure(
        name=name, value=median(rounds), unit=unit, beside="", beside_value=None, bound="", holds=True, rounds=rounds
    )


def main() -> None:
    """Print the figures of the receiver alone."""
    with scratch_directory("usage-bench-") as directory, running_redis(directory, os.environ) as url:
        for figure in bench_receiver(Servers(database_url="", redis_url=url), directory):
            sys.stdout.write(
                json.dumps(
                    {
                        "what": figure.name,
                        "value": round(figure.value, 1),
                        "unit": figure.unit,
                        "rounds": [round(each, 1) for each in figure.rounds],
                        "holds": figure.holds,
                    }
                )
                + "\n"
            )


if __name__ == "__main__":
    main()
