"""One receiver on a port: a second one is refused, whenever it starts, and the first goes on."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.warm import start as warm
from tests.webhook_app.conftest import Receiver, children, drain, make_event, running_receiver, wait_until
from tests.webhook_app.test_serve import SETTINGS
from usage_tasks.embedded.processes import LINUX, free_port

pytestmark = pytest.mark.timeout(120)
SERVE = "import sys; from usage_tasks.webhook_app.serving import serve; serve('127.0.0.1', int(sys.argv[1]))"
MINE = SETTINGS | {"STRIPE_WEBHOOK_SECRET": "whsec_mine"}


COMMAND = [sys.executable, "-m", "usage_tasks", "webhook"]


def variables(broker: str, port: int, address: str = "127.0.0.1") -> dict[str, str]:
    placed = {"REDIS_URL": broker, "USAGE_SERVER__PORT": str(port), "USAGE_SERVER__ADDRESS": address}
    return os.environ | MINE | placed


def start(broker: str, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(COMMAND, env=variables(broker, port), stderr=subprocess.PIPE, text=True)


def expect_refusal(environ: dict[str, str], port: int, *words: str) -> None:
    ended = warm.run(COMMAND, env=environ, timeout=30)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert ended.stderr.startswith("`server` in the configuration file: can't listen at ")
    assert [word for word in (f"port {port}", *words) if word not in ended.stderr] == []


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, broker: str) -> Iterator[Receiver]:
    """The receiver that has the port."""
    directory = tmp_path_factory.mktemp("first")
    with running_receiver(directory, broker, code=SERVE, environ=MINE | {"REDIS_URL": broker}) as receiver:
        yield receiver


@pytest.mark.holds("receiver.one-port")
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "localhost", "::"])  # noqa: S104 - what is tested
def test_a_second_receiver_on_a_port_does_not_start_and_the_first_answers_all(
    first: Receiver, broker: str, address: str
) -> None:
    old = variables(broker, first.port, address) | {"STRIPE_WEBHOOK_SECRET": "whsec_old"}
    expect_refusal(old, first.port, "another process listens there")
    for number in range(20):
        assert first.post(make_event(id=f"evt_{number}"), secret="whsec_mine").status == 200
    drain(broker)


@pytest.mark.holds("receiver.one-port")
@pytest.mark.skipif(not LINUX, reason="a name in the network's namespace")
def test_of_receivers_that_start_at_once_one_serves(broker: str) -> None:
    port = free_port()
    started = [start(broker, port) for _ in range(3)]
    try:
        assert wait_until(lambda: sum(each.poll() is None for each in started) == 1, seconds_max=60)
        time.sleep(1)
        assert sorted(str(each.poll()) for each in started) == ["2", "2", "None"]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
    finally:
        for each in started:
            each.send_signal(signal.SIGTERM)
            each.communicate(timeout=30)


def test_it_starts_again_at_once_after_it_ended_and_after_connections(broker: str) -> None:
    port = free_port()
    for _ in range(2):
        process = start(broker, port)
        try:
            assert wait_until(lambda: _accepts(port), seconds_max=30)
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sender:
                sender.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert sender.recv(100).startswith(b"HTTP/1.1 200")
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=30)
        assert "can't listen" not in said


@pytest.mark.holds("receiver.one-port")
def test_a_worker_that_is_replaced_gets_the_port_again(first: Receiver) -> None:
    (before,) = first.workers()
    os.kill(before, signal.SIGKILL)
    assert wait_until(lambda: children(first.process.pid) not in ([before], []), seconds_max=20)
    assert wait_until(lambda: _accepts(first.port), seconds_max=20)
    assert first.request("GET", "/healthz").status == 200


@pytest.mark.parametrize(("address", "words"), [("192.0.2.1", "Cannot assign"), ("no-such-host.invalid", "not known")])
def test_an_address_that_is_not_ours_is_refused_in_a_line(broker: str, address: str, words: str) -> None:
    port = free_port()
    expect_refusal(variables(broker, port, address), port, words)


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
