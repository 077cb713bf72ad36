"""The receiver behind granian, by RSGI: waiting costs no thread (docs/adr/0021).

Source: https://github.com/emmett-framework/granian/blob/master/docs/spec/RSGI.md
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from usage_tasks.stripe_gateway.webhooks import VerifiedEvent
from usage_tasks.telemetry.serving import serve_as_configured
from usage_tasks.webhook_app.configuration import Configuration
from usage_tasks.webhook_app.publishing import ANSWER_SECONDS_MAX, BrokerAwayError, Publisher
from usage_tasks.webhook_app.receiver import (
    ACCEPTED,
    BODY_BYTES_MAX,
    BROKER_AWAY,
    COUNTED,
    TOO_SLOW,
    Answer,
    Head,
    Receiver,
    Secrets,
    too_large,
)
from usage_tasks.webhook_app.senders import Limiter, Network, address_of, parse_networks

BODY_SECONDS_MAX: Final = 10.0
HELPERS: Final = 4
"""Threads for what may wait: refusals counted in Redis, readiness, the signatures of large bodies."""
COUNTING_MAX: Final = 256
"""How many refusals may wait to be counted: under a flood of them one more or less does not matter."""
LARGE_BYTES: Final = 64 * 1024

Result = TypeVar("Result")


def make_application(configuration: Configuration) -> "Application":
    """Make the application of a configuration. Nothing is connected yet; raises ValueError for a wrong value."""
    receiver = Receiver(
        secrets=Secrets(snapshot=configuration.secrets, thin=configuration.thin_secrets),
        publisher=Publisher(configuration.broker, installation=configuration.installation),
        limiter=Limiter(
            configuration.redis_url,
            refusals_per_minute=configuration.refusals_per_minute,
            prefix=configuration.prefix,
        ),
    )
    return Application(receiver, parse_networks(configuration.trusted_proxies))


class Application:
    """A receiver, and the proxies that it trusts, as granian calls it."""

    def __init__(self, receiver: Receiver, trusted: Sequence[Network]) -> None:
        self.receiver, self.trusted = receiver, trusted
        self._helpers: ThreadPoolExecutor | None = None
        self._counting = 0

    def __rsgi_init__(self, _loop: object) -> None:
        """Get ready in the process that serves: nothing is connected across a fork."""
        # The public address shows no metrics: they have a port of their own, on loopback unless configured otherwise.
        serve_as_configured()
        self._helpers = ThreadPoolExecutor(HELPERS, thread_name_prefix="helper")

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        started, receiver = time.perf_counter(), self.receiver
        if scope.proto != "http":
            protocol.close(None)
            return
        head = self._head_of(scope)
        answer, event = receiver.answer_early(head), None
        if answer is None and head.method != "POST":
            answer = await self._help(receiver.answer_readiness)
        elif answer is None:
            answer, event = await self._receive(head, protocol)
        receiver.note(head, answer, started, event)
        protocol.response_bytes(
            answer.status.value, answer.all_headers(), b"" if head.method == "HEAD" else answer.body
        )
        await self._count(head, answer)

    def _head_of(self, scope: Any) -> Head:
        headers = scope.headers
        forwarded = ""
        if self.trusted and "x-forwarded-for" in headers:
            forwarded = ",".join(value for name, value in headers.items() if name.lower() == "x-forwarded-for")
        return Head(
            method=scope.method,
            path=scope.path,
            remote=address_of(scope.client, forwarded, self.trusted),
            signature=headers.get("stripe-signature") or "",
            content_length=headers.get("content-length") or "",
        )

    async def _receive(self, head: Head, protocol: Any) -> tuple[Answer, VerifiedEvent | None]:
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                body = await _read(protocol)
        except TimeoutError:
            return TOO_SLOW, None
        if body is None:
            return too_large(), None
        verify = partial(self.receiver.verify, head, body)
        event = await self._help(verify) if len(body) > LARGE_BYTES else verify()
        if isinstance(event, Answer):
            return event, None
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                await asyncio.wrap_future(self.receiver.publisher.submit(event))
        except (TimeoutError, BrokerAwayError):
            return BROKER_AWAY, event
        return ACCEPTED, event

    async def _help(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._helpers, work)

    async def _count(self, head: Head, answer: Answer) -> None:
        """Count a refused request, after its answer: no sender waits for the count."""
        if answer.outcome not in COUNTED or self._counting >= COUNTING_MAX:
            return
        self._counting += 1
        try:
            await self._help(partial(self.receiver.count, head, answer))
        finally:
            self._counting -= 1


async def _read(protocol: Any) -> bytes | None:
    """Read the body; None as soon as it is larger than allowed."""
    chunks, size = [], 0
    async for chunk in protocol:
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
