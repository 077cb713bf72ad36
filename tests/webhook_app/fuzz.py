"""`python -m tests.webhook_app.fuzz --count 1000000`: mutated requests against the receiver and a broker.

Atheris changes the bytes that tests/webhook_app/mutations.py draws from, guided by the coverage of the receiver's code;
half of all inputs are drawn at random, so that every kind keeps coming. Each request goes through the application as
its server calls it: the head, the limit, the body, signature and JSON, the log, the publishing thread, and a real
broker that confirms. Only the socket is left out; tests/webhook_app/fuzz_socket.py covers it.

Requests are sent BATCH at once, then the queue is emptied and compared. The verdict has two sides: a request is
accepted, with exactly its body under exactly its id, if and only if tests/webhook_app/oracle.py accepts it. No answer
of 500 or above, no exception, no traceback in the log.
"""

import argparse
import asyncio
import base64
import inspect
import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, Final

from redis import Redis

from tests.webhook_app.mutations import ENDPOINTS, ByteRandom, Request, make_request
from tests.webhook_app.oracle import Verdict, judge
from tests.webhook_app.receiver import QUEUE, configuration
from usage_tasks.embedded.processes import scratch_directory
from usage_tasks.embedded.redis import running_redis
from usage_tasks.stripe_gateway import webhooks
from usage_tasks.telemetry.logs import configure_logging
from usage_tasks.webhook_app import application, receiver, senders
from usage_tasks.webhook_app.application import make_application

BATCH: Final = 64
INPUT_BYTES: Final = 512
LED_BY: Final = (senders, application, receiver, webhooks)
"""The modules whose branches guide atheris."""
_OK: Final = 200
_SERVER_ERROR: Final = 500


class Headers(dict[str, str]):
    """Granian's headers: names are lower case."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A request as granian brings it."""

    proto: str
    method: str
    path: str
    client: str
    headers: Headers


@dataclass(slots=True)
class Protocol:
    """The body in the pieces it comes in, and the answer."""

    pieces: Sequence[bytes]
    status: int = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            await asyncio.sleep(0)  # another request's turn, as between two reads of a socket
            yield piece

    def response_bytes(self, status: int, _headers: list[tuple[str, str]], _body: bytes) -> None:
        assert self.status == 0, "answered twice"
        self.status = status


class Watched(io.TextIOBase):
    """The log at production's level: counted, and searched for forbidden texts."""

    def __init__(self) -> None:
        self.lines = 0

    def take_over(self) -> None:
        """Receive all logging here, and raise errors inside it instead of printing them."""
        with redirect_stderr(self):
            configure_logging()
        for handler in logging.getLogger().handlers:
            handler.handleError = _raise  # type: ignore[method-assign,assignment]

    def write(self, written: str) -> int:
        """Take a line; AssertionError if something went wrong behind an answer."""
        self.lines += written.count("\n")
        assert "Traceback" not in written, written
        return len(written)


def _raise(_record: logging.LogRecord) -> None:
    raise  # noqa: PLE0704 - called where the error is handled


class Fuzzed:
    """The application with a real broker behind it, and the observations of both."""

    def __init__(self, broker_url: str) -> None:
        self.counts: Counter[tuple[str, str, int, bool]] = Counter()
        self.verdicts: Counter[str] = Counter()
        self._redis = Redis.from_url(broker_url)
        self._loop = asyncio.new_event_loop()
        self._app = make_application(configuration(broker_url))
        self._app.__rsgi_init__(self._loop)

    def check(self, requests: Sequence[Request], at: int) -> None:
        """Send requests at once. Raises AssertionError, or the original error, if one does not end as it must."""
        answers = self._loop.run_until_complete(self._send_all(requests))
        expected: Counter[tuple[str, str]] = Counter()
        for request, status in zip(requests, answers, strict=True):
            assert _OK <= status < _SERVER_ERROR, (status, request)
            verdict = judge(request, at)
            taken = status == _OK and request.path in ENDPOINTS
            assert verdict is Verdict.EITHER or taken == (verdict is Verdict.TAKE), (verdict, status, request)
            if taken:
                expected[json.loads(request.body)["id"], request.body.decode()] += 1
            self.counts[request.body_kind, request.signature_kind, status, taken] += 1
            self.verdicts[verdict] += 1
        found = take_all(self._redis)
        assert found == expected, (found - expected, expected - found)

    async def _send_all(self, requests: Sequence[Request]) -> Sequence[int]:
        return await asyncio.gather(*[self._send(request) for request in requests])

    async def _send(self, request: Request) -> int:
        cut = len(request.body) // 3
        protocol = Protocol((request.body[:cut], request.body[cut:]))
        scope = Scope("http", request.method, request.path, "192.0.2.1:5", Headers(request.headers))
        await self._app.__rsgi__(scope, protocol)
        return protocol.status


def take_all(redis: Any) -> Counter[tuple[str, str]]:
    """Empty the queue; return the event ids and payloads of its messages, which are the task's."""
    found: Counter[tuple[str, str]] = Counter()
    messages, _ = redis.pipeline().lrange(QUEUE, 0, -1).delete(QUEUE).execute()
    for message in messages:
        envelope = json.loads(message)
        _, arguments, _ = json.loads(base64.b64decode(envelope["body"]))
        assert envelope["headers"]["task"] == "stripe.receive_event"
        assert envelope["headers"]["id"] == arguments["event_id"]
        found[arguments["event_id"], arguments["payload"]] += 1
    return found


def resident_mebibytes(pid: int | str = "self") -> float:
    """Return the resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def lead(count: int, check: Callable[[bytes], None], *, seed: int, directory: Path) -> None:
    """Let atheris call `check` with so many inputs; ends the process."""
    atheris: Any = import_module("atheris")  # not there for every platform, and needed by this run alone

    def changed(data: bytes, size_max: int, number: int) -> bytes:
        random = Random(number)
        mutated: bytes = random.randbytes(INPUT_BYTES) if random.randrange(2) else atheris.Mutate(data, size_max)
        return mutated

    for module in LED_BY:
        for function in functions_of(module):
            atheris.instrument_func(function)
    corpus = directory / "corpus"
    corpus.mkdir()
    for number in range(200):
        (corpus / str(number)).write_bytes(Random(seed + number).randbytes(INPUT_BYTES))
    limits = [f"-runs={count}", f"-max_len={2 * INPUT_BYTES}", "-len_control=0", "-timeout=60"]
    options = [f"-seed={seed}", f"-artifact_prefix={directory}/", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], check, custom_mutator=changed)
    atheris.Fuzz()


def functions_of(module: ModuleType) -> Iterator[Any]:
    """The functions and methods that a module defines."""
    for held in vars(module).values():
        if getattr(held, "__module__", "") != module.__name__:
            continue
        if inspect.isfunction(held):
            yield held
        elif inspect.isclass(held):
            yield from (each for each in vars(held).values() if inspect.isfunction(each))


def work(count: int, seed: int, broker_url: str, directory: Path) -> None:
    """Be one process of the run: progress on standard error, the outcome on standard output."""
    log = Watched()
    log.take_over()
    fuzzed, waiting, started, memory = Fuzzed(broker_url), list[Request](), time.monotonic(), list[float]()
    done = 0

    def check(data: bytes) -> None:
        nonlocal done
        waiting.append(make_request(ByteRandom(data), int(time.time())))
        done += 1
        if len(waiting) < BATCH and done < count:
            return
        fuzzed.check(waiting, int(time.time()))
        waiting.clear()
        if done >= count * (len(memory) + 1) // 10:
            memory.append(round(resident_mebibytes(), 1))
            sys.stderr.write(f"{done} requests, {time.monotonic() - started:.0f} s, {memory[-1]} MiB\n")
        if done == count:
            counts = [[*key, number] for key, number in fuzzed.counts.items()]
            told = {"verdicts": fuzzed.verdicts, "counts": counts, "memory": memory, "log_lines": log.lines}
            print(json.dumps(told), flush=True)  # noqa: T201

    lead(count, check, seed=seed, directory=directory)


def main() -> int:
    """Run it in so many processes, each with its own broker database; print the counts. Return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.webhook_app.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", nargs=2, metavar=("BROKER", "DIRECTORY"), help="be one of them")
    given = parser.parse_args()
    if given.work:
        work(given.count, given.seed, given.work[0], Path(given.work[1]))
    started = time.monotonic()
    with scratch_directory("usage-fuzz-") as scratch, running_redis(scratch, os.environ) as url:
        running = []
        for number in range(given.processes):
            directory = scratch / f"fuzz-{number}"
            directory.mkdir()
            command = [sys.executable, "-m", "tests.webhook_app.fuzz", "--count", str(given.count // given.processes)]
            command += ["--seed", str(1000 * given.seed + number)]
            command += ["--work", f"{url.rpartition('/')[0]}/{number}", str(directory)]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        told = [(process.communicate()[0], process.returncode) for process in running]
    if any(code for _, code in told):
        sys.stderr.writelines(outcome for outcome, _ in told)  # atheris reports raised errors there
        return 1
    report([json.loads(outcome) for outcome, _ in told], time.monotonic() - started)
    return 0


def report(told: Sequence[Any], seconds: float) -> None:
    """Print the counts, by kind of body and of signature."""
    verdicts: Counter[str] = Counter()
    by: dict[str, Counter[str]] = {"answers": Counter(), "bodies": Counter(), "signatures": Counter()}
    for each in told:
        verdicts.update(each["verdicts"])
        for body, signature, status, taken, number in each["counts"]:
            end = "taken" if taken else "refused"
            by["answers"][str(status)] += number
            by["bodies"][f"{body}: {end}"] += number
            by["signatures"][f"{signature}: {end}"] += number
    outcome = {
        "requests": verdicts.total(),
        "seconds": round(seconds),
        "verdicts": dict(verdicts),
        "memory_mebibytes_by_tenths": [each["memory"] for each in told],
        "log_lines": sum(each["log_lines"] for each in told),
    }
    print(json.dumps(outcome | {name: dict(sorted(counts.items())) for name, counts in by.items()}, indent=2))  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
