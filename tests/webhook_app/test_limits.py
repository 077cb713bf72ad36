"""Senders of refused requests get no more answers for a while; slow senders stall nobody."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.webhook_app.conftest import Receiver, make_event, running_receiver, sign, wait_until
from tests.webhook_app.receiver import configuration
from usage_tasks.embedded.processes import free_port
from usage_tasks.webhook_app.application import BODY_SECONDS_MAX, make_application
from usage_tasks.webhook_app.senders import Limiter, address_of, parse_networks

SLOW = 1_500
REFUSALS = 5


@pytest.fixture(scope="module")
def limited(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    environ = os.environ | {"RECEIVER_REFUSALS": str(REFUSALS)}
    with running_receiver(tmp_path_factory.mktemp("limited"), broker, environ=environ) as receiver:
        yield receiver


def refused(receiver: Receiver, address: str) -> int:
    headers = {"Stripe-Signature": "t=1,v1=00", "X-Forwarded-For": address}
    return receiver.request(body=b"{}", headers=headers).status


@pytest.mark.holds("receiver.refusal-limit")
def test_an_address_that_sends_what_is_refused_is_limited_and_told_for_how_long(limited: Receiver) -> None:
    assert [refused(limited, "192.0.2.1") for _ in range(REFUSALS)] == [400] * REFUSALS
    assert wait_until(lambda: refused(limited, "192.0.2.1") == 429, seconds_max=2)
    body = make_event()
    answer = limited.request(body=body, headers={"Stripe-Signature": sign(body), "X-Forwarded-For": "192.0.2.1"})
    assert answer.status == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 61


@pytest.mark.holds("receiver.refusal-limit")
def test_others_are_not_limited_nor_is_what_is_signed_however_much(limited: Receiver) -> None:
    for _ in range(REFUSALS + 1):
        refused(limited, "192.0.2.2")
    signed = [limited.post(make_event(), headers={"X-Forwarded-For": "192.0.2.3"}).status for _ in range(4 * REFUSALS)]
    assert signed == [200] * 4 * REFUSALS


def test_receivers_count_together(broker: str) -> None:
    one, other = (Limiter(broker, refusals_per_minute=4) for _ in range(2))
    for limiter in (one, other, one):
        limiter.count_refusal("192.0.2.9")
        assert limiter.seconds_left("192.0.2.9") == 0
    other.count_refusal("192.0.2.9")
    assert other.seconds_left("192.0.2.9") > 0
    one.count_refusal("192.0.2.9")
    assert one.seconds_left("192.0.2.9") > 0


@pytest.mark.holds("receiver.refusal-limit")
def test_without_redis_nobody_is_limited_and_nobody_waits() -> None:
    limiter = Limiter(f"redis://127.0.0.1:{free_port()}/0", refusals_per_minute=1)
    started = time.monotonic()
    for _ in range(50):
        limiter.count_refusal("192.0.2.1")
    assert limiter.seconds_left("192.0.2.1") == 0
    assert time.monotonic() - started < 2


@pytest.mark.holds("receiver.forwarded-for")
@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1:5", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("10.0.0.1:5", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        ("[::ffff:10.0.0.1]:80", "198.51.100.1:77", "198.51.100.1"),
        ("2001:db8:1:2:3::4", "", "2001:db8:1:2::"),
        ("[2001:db8:1:2:3::4]:9", "", "2001:db8:1:2::"),
        ("", "198.51.100.1", "unknown"),
        ("unix:", "", "unknown"),
    ],
)
def test_the_address_is_the_nearest_that_is_no_trusted_proxy(peer: str, forwarded: str, address: str) -> None:
    assert address_of(peer, forwarded, parse_networks(["10.0.0.0/8"])) == address


@pytest.mark.holds("receiver.slow-body")
def test_many_slow_senders_stall_nobody_and_are_cut_off(receiver: Receiver) -> None:
    head = (
        f"POST /webhook HTTP/1.1\r\nHost: x\r\nStripe-Signature: {sign(make_event())}\r\nContent-Length: 100\r\n\r\n{{"
    )
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port), timeout=20)) for _ in range(SLOW)
        ]
        began = time.monotonic()
        for number, connection in enumerate(slow):
            connection.sendall(head.encode() if number % 2 else head[: len(head) // 2].encode())
        worst = 0.0
        for _ in range(20):
            started = time.monotonic()
            assert receiver.post(make_event()).status == 200
            worst = max(worst, time.monotonic() - started)
        assert worst < 1
        assert slow[-1].recv(100).startswith(b"HTTP/1.1 408 ")
        assert BODY_SECONDS_MAX - 1 < time.monotonic() - began < BODY_SECONDS_MAX + 5
        assert slow[-1].recv(10_000) is not None


def test_huge_bodies_stall_nobody(receiver: Receiver) -> None:
    head = f"POST /webhook HTTP/1.1\r\nHost: x\r\nStripe-Signature: {sign(make_event())}\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n"
    piece = b"80000\r\n" + b"x" * 0x80000 + b"\r\n"
    with ExitStack() as stack:
        for _ in range(40):
            huge = stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port), timeout=5))
            huge.sendall(head.encode() + piece)
        started = time.monotonic()
        assert receiver.post(make_event()).status == 200
        assert time.monotonic() - started < 1


def test_a_limit_of_none_is_no_limit(broker: str, tmp_path: Path) -> None:
    application = make_application(configuration(broker))
    assert application.receiver.publisher.is_reachable()
    assert application.trusted == parse_networks(["127.0.0.1"])
    limiter = Limiter(broker, refusals_per_minute=0)
    limiter.count_refusal("192.0.2.77")
    assert limiter.seconds_left("192.0.2.77") == 0
