import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
import requests

from tests.stripe_simulator.conftest import FIRST_END, SECRET, START, Account, Receiver, connect, wait_until
from usage_tasks.stripe_simulator import Settings, Simulator, make_app, serve
from usage_tasks.stripe_simulator import __main__ as simulator_main

COMMAND = (sys.executable, "-m", "usage_tasks.stripe_simulator", "--frozen-time", "2026-01-31T10:00:00Z")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Account]]:
    """A simulator as its own process; killed at the end, if the test hasn't ended it."""
    port = free_port()
    process = subprocess.Popen([*COMMAND, "--port", str(port), *arguments], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _healthy(url))
        yield process, connect(url)
    finally:
        process.kill()
        process.wait(5)


def _healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/_simulator/health", timeout=2).status_code == 200
    except requests.ConnectionError:
        return False


def test_state_and_pending_webhooks_survive_sigkill(tmp_path: Path, receiver: Receiver) -> None:
    state = ("--state", str(tmp_path / "state.sqlite"))
    nowhere = f"http://127.0.0.1:{free_port()}/"
    with running(*state, "--webhook-url", nowhere, "--webhook-secret", SECRET) as (process, account):
        subscription = account.subscribe(account.metered_price())
        account.report(subscription.customer, "5", at=START, identifier="report-1")
        account.advance(FIRST_END)
        expected = account.event_types()
        process.kill()
        process.wait(5)
    with running(*state, "--webhook-url", receiver.url, "--webhook-secret", SECRET) as (_process, account):
        wait_until(lambda: account.deliveries()["pending"] == 0)
        assert receiver.types() == expected
        assert requests.get(f"{account.url}/_simulator/clock", timeout=5).json()["now"] == FIRST_END
        account.advance(FIRST_END + 3600)
        assert account.v1.invoices.list({"subscription": subscription.id}).data[0].total == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_one_process_within_two_seconds(number: signal.Signals, receiver: Receiver) -> None:
    receiver.pause_seconds = 3
    with running("--webhook-url", receiver.url, "--webhook-secret", SECRET) as (process, account):
        account.v1.customers.create()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        assert not children.exists() or children.read_text() == ""
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(5) == 0
        assert time.monotonic() - started < 2


def test_sixteen_connections_are_served_at_once(account: Account) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            mine = connect(account.url)
            for _ in range(10):
                mine.v1.customers.create()
        except BaseException as error:  # noqa: BLE001 - carried over to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert len(list(account.v1.customers.list({"limit": 100}).auto_paging_iter())) == 160


def test_a_state_on_the_real_clock_cannot_be_frozen_later(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state.sqlite"), "--port", str(free_port()))
    process = subprocess.Popen(
        [sys.executable, "-m", "usage_tasks.stripe_simulator", *state], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: _healthy(f"http://127.0.0.1:{state[3]}"))
    process.terminate()
    assert process.wait(5) == 0
    refused = subprocess.run([*COMMAND, *state], capture_output=True, timeout=10, check=False)
    assert refused.returncode != 0
    assert b"real clock" in refused.stderr


def test_a_state_has_one_process_at_a_time(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path / "state.sqlite"))
    with running(*state):
        second = subprocess.run([*COMMAND, "--port", "0", *state], capture_output=True, timeout=15, check=False)
        assert b"database is locked" in second.stderr


def test_the_same_simulator_is_a_wsgi_application() -> None:
    simulator = Simulator(Settings(frozen_time=START))
    environ: dict[str, Any] = {"PATH_INFO": "/v1/customers", "HTTP_AUTHORIZATION": "Bearer sk_test_x"}
    setup_testing_defaults(environ)
    started: list[str] = []

    def start_response(status: str, *_: object) -> Callable[[bytes], object]:
        started.append(status)
        return _no_write

    with closing(simulator):
        body = b"".join(make_app(simulator)(environ, start_response))
    assert started == ["200 OK"]
    assert json.loads(body) == {"object": "list", "data": [], "has_more": False, "url": "/v1/customers"}


def _no_write(_data: bytes) -> None:
    raise AssertionError("the application returns its body")


def raw(account: Account, request: bytes) -> bytes:
    """Return the bytes that a bare socket receives until the connection is closed."""
    host, _, port = account.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET /_simulator/health HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /_simulator/health HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"GET /_simulator/health HTTP/1.1\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_request_is_a_400_and_ends_the_connection(account: Account, request_bytes: bytes) -> None:
    assert raw(account, request_bytes).split(b" ", 2)[1] == b"400"


def test_a_connection_is_kept_until_it_is_to_be_closed(account: Account) -> None:
    one = b"GET /_simulator/health HTTP/1.1\r\nHost: x\r\n"
    received = raw(account, one + b"\r\n" + one + b"connection: close\r\n\r\n")
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.count(b"Connection: close") == 1


def test_a_body_may_wait_for_leave(account: Account) -> None:
    head = b"POST /_simulator/search HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    received = raw(account, head + b"{}")
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_it_listens_on_this_machine_only_unless_told() -> None:
    with serve(Settings()) as server:
        assert server.server_address[0] == "127.0.0.1"
    assert simulator_main._parser().parse_args(["--port", "0"]).host == "127.0.0.1"
