"""A receiver on a real socket, a real broker behind it, and requests as Stripe sends them."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from types import MappingProxyType
from typing import Any

import pytest
from stripe import WebhookSignature

from tests.webhook_app.receiver import QUEUE, SECRETS, THIN_SECRETS, make_celery
from usage_tasks.embedded.processes import child_process, free_port
from usage_tasks.embedded.redis import running_redis

OBJECT_ID = "in_of_the_payload"  # no other id contains it by chance

RUN = (
    "import sys; from usage_tasks.webhook_app.serving import run_server; "
    "run_server('tests.webhook_app.receiver:app', '127.0.0.1', int(sys.argv[1]))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The receiver's answer."""

    status: int
    headers: Mapping[str, str]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """A running receiver."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def request(
        self,
        method: str = "POST",
        path: str = "/webhook",
        body: bytes | Iterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request; an iterable body goes in chunks, without a length."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            # The answer may come, and the connection close, before all of a body is sent.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Answer(status=answer.status, headers=dict(answer.headers), text=answer.read().decode())
        finally:
            connection.close()

    def post(
        self,
        body: bytes,
        *,
        secret: str = SECRETS[0],
        signed_at: int | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Answer:
        """Send a body as Stripe does, signed by the official SDK."""
        signature = sign(body, secret=secret, signed_at=signed_at)
        return self.request(body=body, headers={"Stripe-Signature": signature, **headers})

    def post_thin(self, body: bytes, *, secret: str = THIN_SECRETS[0]) -> Answer:
        """Send a thin event to its own endpoint."""
        return self.request(path="/webhook/thin", body=body, headers={"Stripe-Signature": sign(body, secret=secret)})

    def workers(self) -> list[int]:
        """The serving processes: the children of the supervisor."""
        return children(self.process.pid)


def sign(body: bytes, *, secret: str = SECRETS[0], signed_at: int | None = None) -> str:
    """The Stripe-Signature header of a body."""
    text = body.decode(errors="replace")
    header: str = WebhookSignature.generate_signature_header(text, secret, signed_at)
    return header


def make_event(**fields: Any) -> bytes:
    """A snapshot event as Stripe sends it."""
    event = {"id": "evt_1", "object": "event", "type": "invoice.finalized", "data": {"object": {"id": OBJECT_ID}}}
    return json.dumps(event | fields, indent=2).encode()


def make_thin_event(**fields: Any) -> bytes:
    """A thin event as Stripe sends it."""
    event = {
        "id": "evt_thin_1",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2026-01-31T10:00:00.000Z",
        "livemode": False,
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    }
    return json.dumps(event | fields).encode()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    listed = subprocess.run(["ps", "-A", "-o", "ppid=,pid="], capture_output=True, text=True, check=True)
    rows = (line.split() for line in listed.stdout.splitlines())
    return [int(child) for parent, child in rows if int(parent) == pid]


@contextmanager
def running_receiver(
    directory: Path, broker_url: str, *, code: str = RUN, environ: Mapping[str, str] = os.environ
) -> Iterator[Receiver]:
    """Run the receiver of tests/webhook_app/receiver.py, or another, under the server that production uses."""
    port, log = free_port(), directory / "receiver.log"

    def ready() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
        except OSError:
            return False

    environment = {**os.environ, **environ, "RECEIVER_BROKER_URL": broker_url}
    command = [sys.executable, "-c", code, str(port)]
    with child_process(command, name="receiver", log=log, environment=environment, ready=ready) as process:
        yield Receiver(port=port, process=process, log=log)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a broker of our own."""
    with running_redis(tmp_path_factory.mktemp("broker"), os.environ) as url:
        yield url


@pytest.fixture(scope="session")
def running(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with running_receiver(tmp_path_factory.mktemp("receiver"), broker) as receiver:
        yield receiver


Queued = Callable[[], list[Any]]


@pytest.fixture
def queued(broker: str) -> Queued:
    """Take and return the messages that are in the queue."""
    return lambda: drain(broker)


@pytest.fixture
def receiver(running: Receiver, broker: str) -> Receiver:
    """A receiver whose queue is empty."""
    drain(broker)
    return running


def drain(broker_url: str) -> list[Any]:
    """Take all messages off the queue of the receiver's task."""
    messages = []
    connection = make_celery(broker_url).connection_for_read()
    with connection, connection.SimpleQueue(QUEUE) as queue, suppress(Empty):
        while True:
            message = queue.get(block=False)
            message.ack()
            messages.append(message)
    return messages


def wait_until(condition: Callable[[], bool], *, seconds_max: float) -> bool:
    """Poll until the condition holds. Return False if it does not in time."""
    give_up_at = time.monotonic() + seconds_max
    while not (held := condition()) and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return held
