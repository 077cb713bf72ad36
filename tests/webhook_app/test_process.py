"""The receiver as a process: its memory, its logs and metrics, its end, and its kept connections."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.webhook_app.conftest import (
    Queued,
    Receiver,
    drain,
    make_event,
    make_thin_event,
    running_receiver,
    sign,
    wait_until,
)
from tests.webhook_app.receiver import THIN_SECRETS
from usage_tasks.embedded.processes import LINUX, free_port
from usage_tasks.embedded.redis import running_redis
from usage_tasks.health import check_webhook

MEMORY_MEBIBYTES_MAX = 60
HEAVY = (
    "sqlalchemy",
    "psycopg",
    "alembic",
    "pydantic",
    "typer",
    "flower",
    "celery",
    "usage_tasks.tasks",
    "usage_tasks.storage",
)
INSTALLED = "import sys; from usage_tasks.webhook_app.serving import serve; serve('127.0.0.1', int(sys.argv[1]))"
SETTINGS = {
    "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"default": 0.5}',
    "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 500, "forUsers": 100}',
    "STRIPE_WEBHOOK_SECRET": "whsec_mine",
    "STRIPE_THIN_WEBHOOK_SECRET": "whsec_thin,whsec_thin_old",
}


def resident_mebibytes(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_as_installed_each_process_stays_below_60_mebibytes(tmp_path: Path, broker: str) -> None:
    environ = SETTINGS | {"REDIS_URL": broker}
    with running_receiver(tmp_path, broker, code=INSTALLED, environ=environ) as receiver:
        with ThreadPoolExecutor(8) as senders:
            bodies = [make_event(id=f"evt_{number}", padding="x" * 2_000) for number in range(1_000)]
            answers = senders.map(lambda body: receiver.post(body, secret="whsec_mine").status, bodies)
            assert set(answers) == {200}
        assert receiver.post_thin(make_thin_event(), secret="whsec_thin_old").status == 200
        [worker] = receiver.workers()
        held = [resident_mebibytes(pid) for pid in (receiver.process.pid, worker)]
        assert max(held) < MEMORY_MEBIBYTES_MAX, held
        for pid in (receiver.process.pid, worker):
            assert not re.search(r"pydantic|psycopg|sqlalchemy", Path(f"/proc/{pid}/maps").read_text())
        assert "Traceback" not in receiver.log.read_text()
    drain(broker)


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, usage_tasks.webhook_app.serving; usage_tasks.webhook_app.app; print(*sys.modules)"
    environ = {**os.environ, **SETTINGS}
    listed = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True, timeout=60
    )
    modules = listed.stdout.split()
    assert "usage_tasks.webhook_app.publishing" in modules
    assert [name for name in modules if name.startswith(HEAVY)] == []


@pytest.mark.holds("receiver.health")
def test_readiness_follows_the_broker(tmp_path: Path) -> None:
    port = free_port()
    with running_receiver(tmp_path, f"redis://127.0.0.1:{port}/0") as receiver:
        for method in ("GET", "HEAD"):
            started = time.monotonic()
            assert receiver.request(method, "/readyz").status == 503
            assert time.monotonic() - started < 5
        with running_redis(tmp_path / "broker", os.environ, ports=lambda: port):
            assert receiver.request("GET", "/readyz").status == 200
        assert receiver.request("GET", "/readyz").status == 503
        assert receiver.request("POST", "/readyz").status == 405
        assert receiver.request("GET", "/healthz").status == 200


@pytest.mark.holds("receiver.health")
def test_the_probe_finds_a_receiver_whose_broker_is_away_alive_and_not_ready(tmp_path: Path) -> None:
    port = free_port()
    with running_receiver(tmp_path, f"redis://127.0.0.1:{port}/0") as receiver:
        environment = {"USAGE_SERVER__PORT": str(receiver.port)}
        assert check_webhook(environment) == "it answers 503: broker away"
        assert check_webhook(environment, live=True) is None
        with running_redis(tmp_path / "broker", os.environ, ports=lambda: port):
            assert check_webhook(environment) is None


def test_a_receiver_whose_settings_are_no_settings_is_one_line(tmp_path: Path) -> None:
    for content in ("[]", "null", '{"server": 5}', '{"server": {"port": null}}', "{"):
        (tmp_path / "config.json").write_text(content)
        problem = check_webhook({"USAGE_CONFIG": str(tmp_path / "config.json")})
        assert str(problem).startswith("no answer: ")


@pytest.mark.holds("receiver.health")
def test_readiness_is_told_within_bounds_by_a_black_hole(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as hole:
        url = f"redis://127.0.0.1:{hole.getsockname()[1]}/0"
        with running_receiver(tmp_path, url) as receiver:
            started = time.monotonic()
            assert receiver.request("GET", "/readyz").status == 503
            assert time.monotonic() - started < 5


def test_outcomes_and_latencies_are_measured_on_a_port_of_their_own(tmp_path: Path, broker: str) -> None:
    port = free_port()
    with running_receiver(tmp_path, broker, environ=os.environ | {"USAGE_METRICS_PORT": str(port)}) as receiver:
        receiver.post(make_event())
        receiver.post(make_event(), secret="whsec_other")
        receiver.post_thin(make_thin_event())
        assert receiver.request("GET", "/metrics").status == 404
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            told = answer.read().decode()
    for endpoint, outcome in (("snapshot", "accepted"), ("snapshot", "refused"), ("thin", "accepted")):
        assert f'usage_webhook_duration_seconds_count{{endpoint="{endpoint}",outcome="{outcome}"}} 1.0' in told
    drain(broker)


def test_what_was_taken_is_answered_before_it_stops(tmp_path: Path, broker: str) -> None:
    with running_receiver(tmp_path, broker) as receiver:
        body = make_event(id="evt_stopping")
        head = f"POST /webhook HTTP/1.1\r\nHost: x\r\nStripe-Signature: {sign(body)}\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as sender:
            sender.sendall(head.encode() + body[:5])
            time.sleep(0.2)
            threading.Timer(0.5, lambda: sender.sendall(body[5:])).start()
            receiver.process.send_signal(signal.SIGTERM)
            assert sender.recv(100).startswith(b"HTTP/1.1 200 ")
        assert receiver.process.wait(5) == 0
    assert [message.headers["id"] for message in drain(broker)] == ["evt_stopping"]


def test_on_a_connection_that_a_proxy_keeps_it_answers_the_same(receiver: Receiver, queued: Queued) -> None:
    body, thin = make_event(), make_thin_event()
    with closing(http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=20)) as kept:

        def ask(method: str = "POST", path: str = "/webhook", content: Any = b"", signature: str = "") -> int:
            kept.request(method, path, body=content, headers={"Stripe-Signature": signature})
            answer = kept.getresponse()
            answer.read()
            return answer.status

        assert ask(content=body, signature=sign(body)) == 200
        socket_of_the_first = kept.sock
        assert ask(path="/webhook/thin", content=thin, signature=sign(thin, secret=THIN_SECRETS[0])) == 200
        assert ask(content=body, signature=sign(body, secret="whsec_other")) == 400
        assert ask(content=iter([body[:9], body[9:]]), signature=sign(body)) == 200
        assert ask("PUT") == 405
        assert ask("GET", "/readyz") == 200
        assert ask(content=body.ljust(1 << 20), signature=sign(body.ljust(1 << 20))) == 200
        assert kept.sock is socket_of_the_first
        with suppress(BrokenPipeError, ConnectionResetError):
            kept.request("POST", "/webhook", body=body.ljust(2 << 20), headers={"Stripe-Signature": sign(body)})
        assert kept.getresponse().status == 413
    assert len(queued()) == 4
    assert "Traceback" not in receiver.log.read_text()


def test_a_worker_that_dies_is_replaced(receiver: Receiver) -> None:
    [worker] = receiver.workers()
    os.kill(worker, signal.SIGKILL)

    def is_back() -> bool:
        try:
            return receiver.post(make_event()).status == 200
        except OSError:
            return False

    assert wait_until(is_back, seconds_max=10)
