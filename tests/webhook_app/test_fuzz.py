"""A little of the long run (tests/webhook_app/fuzz.py), and raw bytes over the socket."""

import socket

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.webhook_app.conftest import Queued, Receiver, make_event, sign
from tests.webhook_app.fuzz import fuzz


def test_whatever_comes_nothing_unsigned_is_taken_and_nothing_fails() -> None:
    answers = fuzz(600)
    assert answers[200] > 30
    assert answers[400] > 50
    assert set(answers) <= {200, 400, 404, 405, 413}


def test_raw_bytes_on_the_socket_are_no_500_and_no_traceback(receiver: Receiver, queued: Queued) -> None:
    body = make_event()
    plain = (
        f"POST /webhook HTTP/1.1\r\nHost: x\r\nStripe-Signature: {sign(body, secret='whsec_other')}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(place=st.integers(0, len(plain)), cut=st.integers(0, 40), inserted=st.binary(max_size=40))
    def send(place: int, cut: int, inserted: bytes) -> None:
        with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as connection:
            connection.sendall(plain[:place] + inserted + plain[place + cut :])
            connection.shutdown(socket.SHUT_WR)
            try:
                answer = connection.recv(100)
            except ConnectionResetError:
                answer = b""
        assert not answer.startswith(b"HTTP/1.1 5"), answer

    send()
    assert queued() == []
    log = receiver.log.read_text()
    assert "Traceback" not in log
    assert "panicked" not in log
    assert receiver.post(body).status == 200
