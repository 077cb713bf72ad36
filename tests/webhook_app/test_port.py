"""One receiver on a port: a second one is refused, whenever it starts, and the first goes on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.webhook_app.conftest import children, drain, make_event, running_receiver, wait_until
from tests.webhook_app.test_serve import SETTINGS
from usage_tasks.embedded.processes import LINUX, free_port

pytestmark = pytest.mark.timeout(120)
SERVE = "import sys; from usage_tasks.webhook_app.serving import serve; serve('127.0.0.1', int(sys.argv[1]))"
MINE = SETTINGS | {"STRIPE_WEBHOOK_SECRET": "whsec_mine"}


def start(broker: str, port: int, address: str = "127.0.0.1", **variables: str) -> subprocess.Popen[str]:
    environ = os.environ | MINE | {"REDIS_URL": broker, "USAGE_SERVER__PORT": str(port)} | variables
    return subprocess.Popen(
        [sys.executable, "-m", "usage_tasks", "webhook"],
        env=environ | {"USAGE_SERVER__ADDRESS": address},
        stderr=subprocess.PIPE,
        text=True,
    )


def expect_refusal(process: subprocess.Popen[str], port: int, *words: str) -> None:
    try:
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, said.count("\n")) == (2, 1), said
    assert said.startswith("`server` in the configuration file: can't listen at ")
    assert [word for word in (f"port {port}", *words) if word not in said] == []


@pytest.mark.holds("receiver.one-port")
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "localhost", "::"])  # noqa: S104 - what is tested
def test_a_second_receiver_on_a_port_does_not_start_and_the_first_answers_all(
    tmp_path: Path, broker: str, address: str
) -> None:
    environ = MINE | {"REDIS_URL": broker}
    with running_receiver(tmp_path, broker, code=SERVE, environ=environ) as receiver:
        old = start(broker, receiver.port, address, STRIPE_WEBHOOK_SECRET="whsec_old")
        expect_refusal(old, receiver.port, "another process listens there")
        for number in range(20):
            assert receiver.post(make_event(id=f"evt_{number}"), secret="whsec_mine").status == 200
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


def test_it_starts_again_at_once_after_it_ended_and_after_connections(tmp_path: Path, broker: str) -> None:
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
def test_a_worker_that_is_replaced_gets_the_port_again(tmp_path: Path, broker: str) -> None:
    with running_receiver(tmp_path, broker, code=SERVE, environ=MINE | {"REDIS_URL": broker}) as receiver:
        (before,) = receiver.workers()
        os.kill(before, signal.SIGKILL)
        assert wait_until(lambda: children(receiver.process.pid) not in ([before], []), seconds_max=20)
        assert wait_until(lambda: _accepts(receiver.port), seconds_max=20)
        assert receiver.request("GET", "/healthz").status == 200


@pytest.mark.parametrize(("address", "words"), [("192.0.2.1", "Cannot assign"), ("no-such-host.invalid", "not known")])
def test_an_address_that_is_not_ours_is_refused_in_a_line(broker: str, address: str, words: str) -> None:
    port = free_port()
    expect_refusal(start(broker, port, address), port, words)


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
