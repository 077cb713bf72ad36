"""`python -m tests.webhook_app.fuzz_socket --count 100000`: mutated requests and invalid HTTP, over the socket.

The receiver runs as in production, with a real broker behind it. More than half of the requests are well-formed HTTP
around a mutated event: they go in bursts over kept connections, with a length or in chunks, and each must end as
tests/webhook_app/oracle.py decides. The others are malformed (tests/webhook_app/wire.py), each on its own connection,
which the sender then ends, so that some answers are lost. For these, no answer is 500 or above, every accepted event is
in the queue, and everything in the queue was signed. In the end the same process still serves, its log holds no
traceback, and its memory has not grown.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from redis import Redis

from tests.webhook_app.conftest import Receiver, running_receiver
from tests.webhook_app.fuzz import resident_mebibytes, take_all
from tests.webhook_app.mutations import ENDPOINTS, MEBIBYTE, Request, make_request
from tests.webhook_app.oracle import Verdict, event_of, is_signed, judge
from tests.webhook_app.wire import MALFORMED, Reply, framed, may_be_sent, parse
from usage_tasks.embedded.processes import scratch_directory
from usage_tasks.embedded.redis import running_redis

BATCH: Final = 256
KEPT: Final = 8
"""The number of kept connections, each with its share of the requests in flight."""
WELL_FORMED: Final = 0.6
SILENCE_SECONDS_MAX: Final = 20
FIRST_SECONDS: Final = 0.5
"""The seconds to wait for an answer to a malformed request before its sender ends its side."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Connection:
    """A kept connection, opened again after the server has closed it."""

    port: int
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def exchange(self, requests: Sequence[Request], random: Random) -> list[Reply]:
        """Send requests in one go; return the replies. Requests that a closing server has not read are sent again."""
        replies: list[Reply] = []
        while len(replies) < len(requests):
            left = requests[len(replies) :]
            fresh = self.writer is None
            if self.writer is None:
                self.reader, self.writer = await connect(self.port)
            self.writer.write(b"".join(framed(each, chunk_bytes=random.choice((0, 0, 100))) for each in left))
            found, ended = await self._read(left)
            if ended:
                self.close()
            assert found or not fresh, ("closed without an answer", left[0])
            replies += found
        return replies

    async def _read(self, requests: Sequence[Request]) -> tuple[list[Reply], bool]:
        assert self.reader is not None
        methods, received = [each.method for each in requests], b""
        async with asyncio.timeout(SILENCE_SECONDS_MAX):
            while True:
                try:
                    piece = await self.reader.read(65_536)
                except ConnectionError:
                    piece = b""
                received += piece
                replies, _ = parse(received, methods)
                if len(replies) == len(requests) or not piece:
                    return replies, not piece

    def close(self) -> None:
        """Close it, if it is open."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect so that closing leaves no port behind: there are more connections than ports."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    return reader, writer


async def alone(port: int, sent: bytes) -> bytes:
    """Send bytes on a separate connection, half-close it, and return all bytes that come back."""
    reader, writer = await connect(port)
    received = b""
    try:
        async with asyncio.timeout(SILENCE_SECONDS_MAX):
            writer.write(sent)
            # The server drops its current request when it sees the end.
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_SECONDS):
                    received = await reader.read(65_536)
            writer.write_eof()
            while piece := await reader.read(65_536):
                received += piece
    except TimeoutError:
        raise
    except OSError:
        pass  # the server had read enough
    finally:
        writer.close()
    return received


@dataclass(slots=True)
class Fuzzing:
    """A receiver, its queue, and the observations of both."""

    port: int
    redis: Any
    random: Random
    verdicts: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    kept: list[Connection] = field(default_factory=list)

    async def batch(self, count: int) -> None:
        """Send `count` requests. Raises AssertionError if one does not end as it must."""
        self.kept = self.kept or [Connection(self.port) for _ in range(KEPT)]
        at = int(time.time())
        requests = [_as_sent(make_request(self.random, at)) for _ in range(count)]
        whole = [each for each in requests if may_be_sent(each) and self.random.random() < WELL_FORMED]
        broken = [each for each in requests if each not in whole]
        shares = [whole[number::KEPT] for number in range(KEPT)]
        exchanged = asyncio.gather(*[self._exchange(*each) for each in zip(self.kept, shares, strict=True)])
        malformed = asyncio.gather(*[self._malformed(each) for each in broken])
        expected: Counter[tuple[str, str]] = sum(await exchanged, Counter())
        accepted = sum(await malformed)
        found = take_all(self.redis)
        more = found - expected
        assert not expected - found, expected - found
        assert more.total() >= accepted, (more, accepted)
        bodies = {each.body for each in broken if _may_be_taken(each, at)}
        assert all(payload.encode() in bodies for _, payload in more), more

    async def _exchange(self, connection: Connection, requests: Sequence[Request]) -> Counter[tuple[str, str]]:
        taken: Counter[tuple[str, str]] = Counter()
        at = int(time.time())
        small = [each for each in requests if len(each.body) < MEBIBYTE]
        replies = await connection.exchange(small, self.random)
        # The sender of too much may be cut off before all is sent, without an answer, or before it reads the answer.
        for each in requests:
            if len(each.body) >= MEBIBYTE:
                small.append(each)
                found, _ = parse(await alone(self.port, framed(each)), [each.method])
                replies += found or [Reply(413, b"")]
        for request, reply in zip(small, replies, strict=True):
            verdict = judge(request, at)
            assert reply.status < 500, (reply, request)
            assert verdict is Verdict.EITHER or reply.accepted == (verdict is Verdict.TAKE), (verdict, reply, request)
            if reply.accepted:
                taken[json.loads(request.body)["id"], request.body.decode()] += 1
            self.verdicts[verdict] += 1
            self.answers[f"well-formed: {reply.status}"] += 1
        return taken

    async def _malformed(self, request: Request) -> int:
        kind = self.random.choice(tuple(MALFORMED))
        received = await alone(self.port, MALFORMED[kind](self.random, request))
        statuses = re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)
        assert not any(status.startswith(b"5") for status in statuses), (kind, received, request)
        self.answers[f"{kind}: {b' '.join(statuses[:1]).decode() or 'none'}"] += 1
        return received.count(b"\r\n\r\naccepted\n")


def _as_sent(request: Request) -> Request:
    """Return a request with its header values as HTTP means them: without blanks around them."""
    return replace(request, headers={name: value.strip(" \t") for name, value in request.headers.items()})


def _may_be_taken(request: Request, at: int) -> bool:
    header = request.headers.get("stripe-signature", "")
    return any(
        is_signed(request.body, header, secrets, at) and event_of(path, request.body) is not None
        for path, secrets in ENDPOINTS.items()
    )


def fuzz(receiver: Receiver, broker_url: str, count: int, *, seed: int, batch: int = BATCH) -> dict[str, Any]:
    """Send `count` requests to a receiver with an empty queue; return the counts. AssertionError if it fails."""
    with Redis.from_url(broker_url) as redis:
        fuzzing, memory, [worker] = Fuzzing(receiver.port, redis, Random(seed)), list[float](), receiver.workers()
        started, done = time.monotonic(), 0

        async def all_of_it() -> None:
            nonlocal done
            while done < count:
                await fuzzing.batch(min(batch, count - done))
                done += min(batch, count - done)
                if done >= count * (len(memory) + 1) // 10:
                    memory.append(round(resident_mebibytes(worker), 1))
                    sys.stderr.write(f"{done} requests, {time.monotonic() - started:.0f} s, {memory[-1]} MiB\n")

        asyncio.run(all_of_it())
    assert receiver.workers() == [worker], "the process that served has ended"
    log = receiver.log.read_text(errors="replace")
    for bad in ("Traceback", "panicked", "Logging error"):
        assert bad not in log, log[log.index(bad) - 500 : log.index(bad) + 2_000]
    return {
        "requests": done,
        "seconds": round(time.monotonic() - started),
        "verdicts": dict(fuzzing.verdicts),
        "memory_mebibytes_by_tenths": memory,
        "answers": dict(sorted(fuzzing.answers.items())),
    }


def main() -> int:
    """Run it against a separate receiver and broker; print the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.webhook_app.fuzz_socket", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with (
        scratch_directory("usage-fuzz-") as scratch,
        running_redis(scratch, os.environ) as url,
        running_receiver(scratch, url) as receiver,
    ):
        print(json.dumps(fuzz(receiver, url, given.count, seed=given.seed), indent=2))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
