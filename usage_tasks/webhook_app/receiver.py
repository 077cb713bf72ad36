"""The answers to requests: by the head, then by the body, then by the broker's word."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Final

import structlog

from usage_tasks.stripe_gateway.webhooks import VerifiedEvent, WebhookRefusedError, verify_event, verify_thin_event
from usage_tasks.telemetry.metrics import WEBHOOK_CLOCK, WEBHOOK_SECONDS
from usage_tasks.webhook_app.publishing import Publisher
from usage_tasks.webhook_app.senders import Limiter

SNAPSHOT_PATH: Final = "/webhook"
THIN_PATH: Final = "/webhook/thin"
BODY_BYTES_MAX: Final = 1024 * 1024

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The parts of a request before its body. `remote` is the address that it is counted for."""

    method: str
    path: str
    remote: str
    signature: str = ""
    content_length: str = ""

    @property
    def declares_too_much(self) -> bool:
        """Whether the length that is declared is no length, or above the bound."""
        declared = self.content_length
        if not declared:
            return False
        digits = declared.isascii() and declared.isdecimal()
        return not digits or len(declared) > len(str(BODY_BYTES_MAX)) or int(declared) > BODY_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The reply; `outcome` is its label in the metric."""

    status: HTTPStatus
    text: str
    outcome: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The text as it is sent."""
        return f"{self.text}\n".encode()

    def all_headers(self) -> list[tuple[str, str]]:
        """Every header."""
        plain = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(self.body))}
        return [*plain.items(), *self.headers.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Stripe's signing secrets by endpoint: several during a rotation; without a thin secret no thin endpoint."""

    snapshot: Sequence[str]
    thin: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse empty secrets: anybody could sign with one."""
        if not self.snapshot or not all((*self.snapshot, *self.thin)):
            raise ValueError("the receiver needs at least one webhook secret, and none may be empty")


class Receiver:
    """Handles requests, all of them in one event loop: its publisher takes events from one thread only."""

    def __init__(self, *, secrets: Secrets, publisher: Publisher, limiter: Limiter) -> None:
        self.publisher, self._limiter = publisher, limiter
        self._endpoints: Mapping[str, Sequence[str]] = {SNAPSHOT_PATH: secrets.snapshot} | (
            {THIN_PATH: secrets.thin} if secrets.thin else {}
        )

    def answer_early(self, head: Head) -> Answer | None:
        """Return the reply to a request that needs neither body nor broker; None for an event or a readiness check."""
        match head.path, head.method:
            case path, "POST" if path in self._endpoints:
                return self._refuse_early(head)
            case path, _ if path in self._endpoints:
                return _not_allowed("POST")
            case "/healthz", "GET" | "HEAD":
                return Answer(status=HTTPStatus.OK, text="ok", outcome="health")
            case "/readyz", "GET" | "HEAD":
                return None
            case "/healthz" | "/readyz", _:
                return _not_allowed("GET, HEAD")
        return Answer(status=HTTPStatus.NOT_FOUND, text="not found", outcome="not_found")

    def _refuse_early(self, head: Head) -> Answer | None:
        left = self._limiter.seconds_left(head.remote)
        if left:
            return Answer(
                status=HTTPStatus.TOO_MANY_REQUESTS,
                text="too many refused requests",
                outcome="limited",
                headers={"retry-after": str(left)},
            )
        if not head.signature:
            return refusal("no signature")
        return too_large() if head.declares_too_much else None

    def answer_readiness(self) -> Answer:
        """Whether the broker answers: ask it, within its time-outs."""
        if self.publisher.is_reachable():
            return Answer(status=HTTPStatus.OK, text="ready", outcome="ready")
        return Answer(status=HTTPStatus.SERVICE_UNAVAILABLE, text="broker away", outcome="not_ready")

    def verify(self, head: Head, body: bytes) -> VerifiedEvent | Answer:
        """Return the event in a body, or the reply that refuses it."""
        if len(body) > BODY_BYTES_MAX:
            return too_large()
        verify = verify_thin_event if head.path == THIN_PATH else verify_event
        try:
            return verify(body, head.signature, self._endpoints[head.path], at=datetime.now(UTC))
        except WebhookRefusedError as refused:
            if refused.clock_ahead is not None:
                _note_clock(refused.clock_ahead)
            return refusal(str(refused))

    def note(self, head: Head, answer: Answer, started: float, event: VerifiedEvent | None = None) -> None:
        """Log and measure a reply, before it is sent: a client that has the reply finds it in the log."""
        endpoint = {SNAPSHOT_PATH: "snapshot", THIN_PATH: "thin"}.get(head.path, "other")
        WEBHOOK_SECONDS.labels(endpoint, answer.outcome).observe(time.perf_counter() - started)
        if event is not None:
            say = log.info if answer.outcome == "accepted" else log.warning
            say(f"webhook.{answer.outcome}", event_id=event.event_id, event_type=event.event_type)
        elif answer.outcome in COUNTED:
            log.warning("webhook.refused", status=answer.status.value, reason=answer.text)

    def count(self, head: Head, answer: Answer) -> None:
        """Count a refused request against its address: this may wait for Redis, half a second at most."""
        if answer.outcome in COUNTED:
            self._limiter.count_refusal(head.remote)


def _note_clock(ahead: timedelta) -> None:
    """Log that a signature is right and its time is not: a clock is wrong, or an old request was sent again."""
    WEBHOOK_CLOCK.set(ahead.total_seconds())
    log.warning("webhook.clock_differs", clock_ahead_seconds=round(ahead.total_seconds(), 1))


COUNTED: Final = frozenset({"refused", "too_large", "too_slow"})
ACCEPTED: Final = Answer(status=HTTPStatus.OK, text="accepted", outcome="accepted")
BROKER_AWAY: Final = Answer(status=HTTPStatus.SERVICE_UNAVAILABLE, text="try again later", outcome="broker_away")
TOO_SLOW: Final = Answer(
    status=HTTPStatus.REQUEST_TIMEOUT, text="body too slow", outcome="too_slow", headers={"connection": "close"}
)


def refusal(reason: str) -> Answer:
    """Refuse a request for a reason that is safe to show."""
    return Answer(status=HTTPStatus.BAD_REQUEST, text=reason, outcome="refused")


def too_large() -> Answer:
    """Refuse a body that is larger than allowed."""
    return Answer(status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text="body too large", outcome="too_large")


def _not_allowed(methods: str) -> Answer:
    return Answer(
        status=HTTPStatus.METHOD_NOT_ALLOWED,
        text=f"only {methods.partition(',')[0]}",
        outcome="not_allowed",
        headers={"allow": methods},
    )
