"""The webhook receiver: verifies what Stripe sends, hands it to the broker, answers. Nothing else.

It has no database and decides nothing: an event of any type is taken, and 200 means that the broker has it. A bare
WSGI callable, so that it stays small and starts fast; `app` is for a WSGI server, `serve` brings one.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import Final, Protocol
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog
from celery import Celery
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server import Server
from kombu import pools
from kombu.exceptions import LimitExceeded, OperationalError

from usage_tasks.domain.errors import RetryableError
from usage_tasks.settings import load_settings, read_stripe_credentials
from usage_tasks.stripe_gateway.webhooks import WebhookRefusedError, verify_event
from usage_tasks.telemetry.logs import configure_logging

RECEIVE_TASK: Final = "stripe.receive_event"
BODY_BYTES_MAX: Final = 1024 * 1024
# A request holds a thread while its body arrives, for which a WSGI server knows no time limit. Threads are made when
# they are needed, so there are many; the proxy in front, which ends TLS, is what must cut slow senders off.
THREADS: Final = 64
PRODUCERS: Final = 8
WORKER_KILL_SECONDS: Final = 3
# Stripe waits some seconds for an answer and then tries again: better a 503 soon than a 200 too late. A broker
# that is a black hole costs connect and socket time twice over.
BROKER_TIMEOUTS: Final = {"socket_connect_timeout": 1, "socket_timeout": 2}
PUBLISH_RETRY: Final = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}
PRODUCER_WAIT_SECONDS: Final = 2
# After a failure others don't try for so long: those that queue for a thread behind it would wait many times over.
PAUSE_SECONDS: Final = 1.0
# The server's own messages go where all others go, through the same formatter.
SERVER_LOGGING: Final = {"handlers": {}, "loggers": {"_granian": {"handlers": [], "propagate": True}}}

log = structlog.get_logger()


class BrokerAwayError(RetryableError):
    """The broker did not confirm the message in time; the sender must come again."""


class Publish(Protocol):
    """Hands an event to the broker; returns only when it has it. Raises BrokerAwayError."""

    def __call__(self, event_id: str, body: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    text: str
    allow: str = ""


def make_app(*, secrets: Sequence[str], publish: Publish) -> WSGIApplication:
    """A receiver that takes what one of the secrets has signed and hands it to `publish`."""
    if not secrets or not all(secrets):
        raise ValueError("the receiver needs at least one webhook secret, and none may be empty")

    def receiver(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]:
            case "/webhook", "POST":
                answer = _receive(environ, secrets, publish)
            case "/webhook", _:
                answer = _Answer(HTTPStatus.METHOD_NOT_ALLOWED, "only POST", allow="POST")
            case "/healthz", "GET" | "HEAD":
                answer = _Answer(HTTPStatus.OK, "ok")
            case "/healthz", _:
                answer = _Answer(HTTPStatus.METHOD_NOT_ALLOWED, "only GET", allow="GET, HEAD")
            case _:
                answer = _Answer(HTTPStatus.NOT_FOUND, "not found")
        return _respond(answer, start_response)

    return receiver


def publisher(celery_app: Celery) -> Publish:
    """Publish through this Celery app, over few connections, and give up soon when the broker is away."""
    connection = celery_app.connection_for_write(transport_options=BROKER_TIMEOUTS)
    producers = pools.ProducerPool(connection.Pool(PRODUCERS), limit=PRODUCERS)
    broker_errors: tuple[type[BaseException], ...] = (
        OperationalError,
        LimitExceeded,
        OSError,
        *connection.connection_errors,
        *connection.channel_errors,
    )
    paused_until = time.monotonic()

    def publish(event_id: str, body: str) -> None:
        nonlocal paused_until
        if time.monotonic() < paused_until:
            raise BrokerAwayError("a moment ago")
        try:
            with producers.acquire(block=True, timeout=PRODUCER_WAIT_SECONDS) as producer:
                celery_app.send_task(
                    RECEIVE_TASK,
                    kwargs={"event_id": event_id, "payload": body},
                    task_id=event_id,
                    producer=producer,
                    ignore_result=True,
                    retry=True,
                    retry_policy=PUBLISH_RETRY,
                )
        except broker_errors as error:
            paused_until = time.monotonic() + PAUSE_SECONDS
            raise BrokerAwayError(type(error).__name__) from error

    return publish


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The receiver as the environment configures it; what it needs is read at the first request."""
    return _configured_app()(environ, start_response)


def serve(address: str, port: int) -> None:
    """Run the receiver until SIGTERM or SIGINT; then every process of it ends within 5 s.

    Raises SettingsError when the receiver's settings can't be used, before it listens.
    """
    read_stripe_credentials(load_settings(os.environ)).get_webhook_secrets()
    configure_logging()
    run_server("usage_tasks.webhook_app:app", address, port)


def run_server(target: str, address: str, port: int) -> None:
    """Run a WSGI callable, named as `module:attribute`, with the receiver's limits."""
    Server(
        target,
        address=address,
        port=port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=1,
        blocking_threads=THREADS,
        # A worker that dies is replaced; one that a request holds back is not waited for.
        respawn_failed_workers=True,
        workers_kill_timeout=WORKER_KILL_SECONDS,
        log_level=LogLevels.warning,
        log_dictconfig=SERVER_LOGGING,
    ).serve()


@cache
def _configured_app() -> WSGIApplication:
    # Imported in the process that serves: a Celery app must not hold connections across a fork.
    from usage_tasks.celery import app as celery_app  # noqa: PLC0415

    configure_logging()
    credentials = read_stripe_credentials(load_settings(os.environ))
    return make_app(secrets=credentials.get_webhook_secrets(), publish=publisher(celery_app))


def _receive(environ: WSGIEnvironment, secrets: Sequence[str], publish: Publish) -> _Answer:
    signature = environ.get("HTTP_STRIPE_SIGNATURE", "")
    if not signature:
        return _refuse(HTTPStatus.BAD_REQUEST, "no signature")
    body = _read_body(environ)
    if body is None:
        return _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body too large")
    try:
        event = verify_event(body, signature, secrets, at=datetime.now(UTC))
    except WebhookRefusedError as refused:
        return _refuse(HTTPStatus.BAD_REQUEST, str(refused))
    try:
        publish(event.event_id, event.body)
    except BrokerAwayError as error:
        log.warning("webhook.broker_away", event_id=event.event_id, event_type=event.event_type, error=str(error))
        return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, "try again later")
    log.info("webhook.accepted", event_id=event.event_id, event_type=event.event_type)
    return _Answer(HTTPStatus.OK, "accepted")


def _read_body(environ: WSGIEnvironment) -> bytes | None:
    """The body, or None when it is larger than allowed; what is declared too large is not read at all."""
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared and (not declared.isdecimal() or int(declared) > BODY_BYTES_MAX):
        return None
    wanted = int(declared) if declared else BODY_BYTES_MAX + 1
    body: bytes = environ["wsgi.input"].read(wanted)
    return body if len(body) <= BODY_BYTES_MAX else None


def _refuse(status: HTTPStatus, reason: str) -> _Answer:
    log.warning("webhook.refused", status=status.value, reason=reason)
    return _Answer(status, reason)


def _respond(answer: _Answer, start_response: StartResponse) -> list[bytes]:
    content = f"{answer.text}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(content)))]
    if answer.allow:
        headers.append(("Allow", answer.allow))
    start_response(f"{answer.status.value} {answer.status.phrase}", headers)
    return [content]
