"""The receiver behind a server: RSGI, where waiting costs no thread, and WSGI, which every other server speaks.

`usage-tasks webhook` and `granian usage_tasks.webhook_app:app` use RSGI. Under WSGI a request holds a thread while its
body comes, for which WSGI knows no time limit: there the proxy in front must cut slow senders off.
"""

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment

from usage_tasks.stripe_gateway.webhooks import VerifiedEvent
from usage_tasks.telemetry.logs import configure_logging
from usage_tasks.telemetry.metrics import serve_metrics
from usage_tasks.webhook_app.addresses import Network, address_of
from usage_tasks.webhook_app.building import build
from usage_tasks.webhook_app.installed import read_installed
from usage_tasks.webhook_app.publishing import ANSWER_SECONDS_MAX, BrokerAwayError
from usage_tasks.webhook_app.receiver import ACCEPTED, BROKER_AWAY, COUNTED, TOO_SLOW, Receiver, too_large
from usage_tasks.webhook_app.requests import BODY_BYTES_MAX, Answer, Head

BODY_SECONDS_MAX: Final = 10.0
HELPERS: Final = 4
"""Threads for what may wait: refusals counted in Redis, readiness, the signatures of large bodies."""
COUNTING_MAX: Final = 256
"""How many refusals may wait to be counted: under a flood of them one more or less does not matter."""
LARGE_BYTES: Final = 64 * 1024
METRICS_PORT_VARIABLE: Final = "USAGE_METRICS_PORT"
"""What the world reaches shows no metrics: they have a port of their own, on loopback."""


class Application:
    """One receiver for either kind of server; without a given one, that of the environment."""

    def __init__(self, receiver: Receiver | None = None, trusted: Sequence[Network] = ()) -> None:
        self._receiver, self._trusted, self._making = receiver, trusted, Lock()
        self._helpers: ThreadPoolExecutor | None = None
        self._counting = 0

    def _ready_receiver(self) -> Receiver:
        if self._receiver is None:
            with self._making:
                if self._receiver is None:
                    configure_logging()
                    self._receiver, self._trusted = build(read_installed())
        return self._receiver

    # RSGI: https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md

    def __rsgi_init__(self, _loop: object) -> None:
        """Get ready in the process that serves: nothing is connected across a fork."""
        self._ready_receiver()
        if port := os.environ.get(METRICS_PORT_VARIABLE):
            serve_metrics(int(port))
        self._helpers = ThreadPoolExecutor(HELPERS, thread_name_prefix="helper")

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        started, receiver = time.perf_counter(), self._ready_receiver()
        if scope.proto != "http":
            protocol.close(None)
            return
        head = self._head_of_scope(scope)
        answer, event = receiver.answer_early(head), None
        if answer is None and head.method != "POST":
            answer = await self._help(receiver.answer_readiness)
        elif answer is None:
            answer, event = await self._receive(receiver, head, protocol)
        receiver.note(head, answer, started, event)
        protocol.response_bytes(
            answer.status.value, answer.all_headers(), b"" if head.method == "HEAD" else answer.body
        )
        await self._count(receiver, head, answer)

    def _head_of_scope(self, scope: Any) -> Head:
        headers = scope.headers
        forwarded = ""
        if self._trusted and "x-forwarded-for" in headers:
            forwarded = ",".join(value for name, value in headers.items() if name.lower() == "x-forwarded-for")
        return Head(
            method=scope.method,
            path=scope.path,
            remote=address_of(scope.client, forwarded, self._trusted),
            signature=headers.get("stripe-signature") or "",
            content_length=headers.get("content-length") or "",
        )

    async def _receive(self, receiver: Receiver, head: Head, protocol: Any) -> tuple[Answer, VerifiedEvent | None]:
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                body = await _read(protocol)
        except TimeoutError:
            return TOO_SLOW, None
        if body is None:
            return too_large(), None
        verify = partial(receiver.verify, head, body)
        event = await self._help(verify) if len(body) > LARGE_BYTES else verify()
        if isinstance(event, Answer):
            return event, None
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                await asyncio.wrap_future(receiver.publisher.submit(event))
        except (TimeoutError, BrokerAwayError):
            return BROKER_AWAY, event
        return ACCEPTED, event

    async def _help(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._helpers, work)

    async def _count(self, receiver: Receiver, head: Head, answer: Answer) -> None:
        """After the answer: nobody waits for the count."""
        if answer.outcome not in COUNTED or self._counting >= COUNTING_MAX:
            return
        self._counting += 1
        try:
            await self._help(partial(receiver.count, head, answer))
        finally:
            self._counting -= 1

    # WSGI: PEP 3333

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        started, receiver = time.perf_counter(), self._ready_receiver()
        head = Head(
            method=environ["REQUEST_METHOD"],
            path=environ.get("PATH_INFO", ""),
            remote=address_of(environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_FORWARDED_FOR", ""), self._trusted),
            signature=environ.get("HTTP_STRIPE_SIGNATURE", ""),
            content_length=environ.get("CONTENT_LENGTH") or "",
        )
        answer, event = receiver.answer_early(head), None
        if answer is None and head.method != "POST":
            answer = receiver.answer_readiness()
        elif answer is None:
            answer, event = _receive_blocking(receiver, head, environ)
        receiver.note(head, answer, started, event)
        receiver.count(head, answer)
        start_response(f"{answer.status.value} {answer.status.phrase}", answer.all_headers())
        return [b"" if head.method == "HEAD" else answer.body]


def _receive_blocking(receiver: Receiver, head: Head, environ: WSGIEnvironment) -> tuple[Answer, VerifiedEvent | None]:
    wanted = int(head.content_length) if head.content_length else BODY_BYTES_MAX + 1
    event = receiver.verify(head, environ["wsgi.input"].read(wanted))
    if isinstance(event, Answer):
        return event, None
    confirmed = receiver.publisher.submit(event)
    try:
        confirmed.result(ANSWER_SECONDS_MAX)
    except (TimeoutError, BrokerAwayError, CancelledError):
        confirmed.cancel()
        return BROKER_AWAY, event
    return ACCEPTED, event


async def _read(protocol: Any) -> bytes | None:
    """Read the body; None as soon as it is larger than allowed."""
    chunks, size = [], 0
    async for chunk in protocol:
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
