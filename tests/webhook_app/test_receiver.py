"""The rows "Webhook receiver" of the semantics, over a socket."""

import itertools
import json
import socket
import time
from contextlib import ExitStack

import pytest

from tests.webhook_app.conftest import OBJECT_ID, Queued, Receiver, make_event, sign
from tests.webhook_app.receiver import SECRETS

MEBIBYTE = 1024 * 1024


@pytest.mark.holds("receiver.any-type", "lesson.lost-enqueue")
def test_a_signed_event_is_in_the_queue_once_it_is_answered(receiver: Receiver, queued: Queued) -> None:
    body = make_event(id="evt_taken", description="a\x00b")
    assert receiver.post(body).status == 200
    [message] = queued()
    args, kwargs, _ = message.payload
    assert (args, kwargs) == ([], {"event_id": "evt_taken", "payload": body.decode()})
    assert message.headers["id"] == "evt_taken"
    assert message.headers["task"] == "stripe.receive_event"
    assert message.headers["ignore_result"] is True


def test_text_beyond_ascii_survives(receiver: Receiver, queued: Queued) -> None:
    text = json.dumps({"id": "evt_1", "object": "event", "type": "x", "city": "Zürich €"}, ensure_ascii=False)
    assert receiver.post(text.encode()).status == 200
    assert queued()[0].payload[1]["payload"] == text


@pytest.mark.holds("receiver.any-type")
@pytest.mark.parametrize("event_type", ["customer.updated", "something.from.the.future"])
def test_an_event_of_any_type_is_taken(receiver: Receiver, queued: Queued, event_type: str) -> None:
    assert receiver.post(make_event(type=event_type)).status == 200
    assert len(queued()) == 1


@pytest.mark.holds("receiver.same-event")
def test_the_same_event_again_is_taken_again_under_the_same_id(receiver: Receiver, queued: Queued) -> None:
    assert [receiver.post(make_event()).status for _ in range(2)] == [200, 200]
    assert [message.headers["id"] for message in queued()] == ["evt_1", "evt_1"]


@pytest.mark.holds("receiver.two-secrets")
@pytest.mark.parametrize("secret", SECRETS)
def test_either_of_two_secrets_is_accepted(receiver: Receiver, queued: Queued, secret: str) -> None:
    assert receiver.post(make_event(), secret=secret).status == 200
    assert len(queued()) == 1


def test_a_body_in_chunks_is_taken(receiver: Receiver, queued: Queued) -> None:
    body = make_event()
    chunks = iter([body[:10], body[10:]])
    assert receiver.request(body=chunks, headers={"Stripe-Signature": sign(body)}).status == 200
    assert len(queued()) == 1


@pytest.mark.parametrize("offset", [-290, 290])
def test_a_timestamp_within_five_minutes_is_accepted(receiver: Receiver, offset: int) -> None:
    assert receiver.post(make_event(), signed_at=int(time.time()) + offset).status == 200


@pytest.mark.holds("receiver.signature", "receiver.future-timestamp")
@pytest.mark.parametrize("offset", [-310, 310, -(10**9), 10**10])
def test_a_timestamp_further_off_is_refused(receiver: Receiver, queued: Queued, offset: int) -> None:
    answer = receiver.post(make_event(), signed_at=int(time.time()) + offset)
    assert (answer.status, answer.text) == (400, "timestamp too far from now\n")
    assert queued() == []
    [*_, told] = [line for line in receiver.log.read_text().splitlines() if "webhook.clock_differs" in line]
    assert json.loads(told)["clock_ahead_seconds"] == pytest.approx(-offset, abs=5)


def test_of_a_wrong_signature_nobody_says_that_a_clock_is_wrong(receiver: Receiver) -> None:
    before = receiver.log.read_text().count("webhook.clock_differs")
    assert receiver.post(make_event(), secret="whsec_other", signed_at=1).status == 400
    assert receiver.log.read_text().count("webhook.clock_differs") == before


@pytest.mark.holds("receiver.post-only")
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_only_post_is_allowed(receiver: Receiver, queued: Queued, method: str) -> None:
    body = make_event()
    answer = receiver.request(method, body=body, headers={"Stripe-Signature": sign(body)})
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert queued() == []


SIGNED = sign(make_event())


@pytest.mark.holds("receiver.signature")
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        "t=,v1=",
        "t=1",
        "v1=abc",
        SIGNED.replace("v1=", "v0="),
        SIGNED[:-1] + ("0" if SIGNED[-1] != "0" else "1"),
        sign(make_event(), secret="whsec_other"),
        sign(make_event(id="evt_2")),
        "t=1,v1=\xe9",
    ],
    ids=itertools.count(1),  # the headers hold the time: no two processes would name a test alike
)
def test_a_missing_or_bad_signature_is_refused(receiver: Receiver, queued: Queued, header: str | None) -> None:
    answer = receiver.request(body=make_event(), headers={} if header is None else {"Stripe-Signature": header})
    assert answer.status == 400
    assert answer.text in {"no signature\n", "bad signature\n"}
    assert queued() == []


MISSING = {
    "object": "body is no snapshot event",
    "id": "event without an id",
    "type": "event without a type",
}


def without(name: str) -> bytes:
    """A signed body that lacks a field."""
    return json.dumps({key: value for key, value in json.loads(make_event()).items() if key != name}).encode()


@pytest.mark.holds("receiver.signature", "receiver.no-event")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "body is not JSON"),
        (b"{", "body is not JSON"),
        (b"[" * 100_000, "body is not JSON"),
        (b"1" * 5_000, "body is not JSON"),
        (make_event(amount=float("nan")), "body is not JSON"),
        (make_event(amount=float("-inf")), "body is not JSON"),
        (b"[]", "body is no snapshot event"),
        (b"null", "body is no snapshot event"),
        (make_event(object="customer"), "body is no snapshot event"),
        (make_event(object="v2.core.event"), "body is no snapshot event"),
        (make_event(id=None), "event without an id"),
        (make_event(id=""), "event without an id"),
        (make_event(id="evt 1\nforged"), "event without an id"),
        (make_event(id=["evt_1"]), "event without an id"),
        (make_event(type=None), "event without a type"),
        (make_event(type=["invoice.created"]), "event without a type"),
        *((without(name), reason) for name, reason in MISSING.items()),
        (b"\xff\xfe", "body is not UTF-8"),
    ],
)
def test_a_signed_body_that_is_no_event_is_refused(
    receiver: Receiver, queued: Queued, body: bytes, reason: str
) -> None:
    answer = receiver.post(body)
    assert (answer.status, answer.text) == (400, f"{reason}\n")
    assert queued() == []


@pytest.mark.holds("receiver.large-body")
def test_a_body_of_one_mebibyte_is_taken(receiver: Receiver, queued: Queued) -> None:
    padding = MEBIBYTE - len(make_event(padding=""))
    body = make_event(padding="x" * padding)
    assert len(body) == MEBIBYTE
    assert receiver.post(body).status == 200
    assert len(queued()) == 1


@pytest.mark.holds("receiver.large-body")
@pytest.mark.parametrize("size", [MEBIBYTE + 1, 8 * MEBIBYTE])
def test_a_larger_body_is_refused(receiver: Receiver, queued: Queued, size: int) -> None:
    assert receiver.post(make_event().ljust(size)).status == 413
    assert queued() == []


def test_a_declared_length_is_refused_before_the_body_is_sent(receiver: Receiver) -> None:
    headers = {"Stripe-Signature": SIGNED, "Content-Length": str(MEBIBYTE + 1)}
    started = time.monotonic()
    assert receiver.request(headers=headers).status == 413
    assert time.monotonic() - started < 2


@pytest.mark.holds("receiver.large-body")
def test_a_larger_body_in_chunks_is_refused(receiver: Receiver, queued: Queued) -> None:
    body = make_event().ljust(2 * MEBIBYTE)
    chunks = (body[start : start + 65536] for start in range(0, len(body), 65536))
    assert receiver.request(body=chunks, headers={"Stripe-Signature": sign(body)}).status == 413
    assert queued() == []


def test_a_few_senders_that_never_finish_keep_nobody_out(receiver: Receiver, queued: Queued) -> None:
    head = f"POST /webhook HTTP/1.1\r\nHost: x\r\nStripe-Signature: {SIGNED}\r\nContent-Length: 100\r\n\r\n{{"
    with ExitStack() as stack:
        for _ in range(16):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port)))
            slow.sendall(head.encode())
        assert receiver.post(make_event()).status == 200
    assert len(queued()) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 200),
        ("POST", "/healthz", 405),
        ("GET", "/", 404),
        ("POST", "/", 404),
        ("POST", "/webhook/", 404),
        ("POST", "/webhooks", 404),
        ("POST", "/webhook?x=1", 400),
    ],
)
def test_each_path_has_its_answer(receiver: Receiver, method: str, path: str, status: int) -> None:
    answer = receiver.request(method, path)
    assert answer.status == status
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_the_log_names_the_event_and_never_its_content_or_a_secret(receiver: Receiver) -> None:
    receiver.post(make_event(id="evt_logged", type="charge.failed", customer_email="jane@example.com"))
    receiver.post(make_event(id="evt_refused", customer_email="jane@example.com"), secret="whsec_other")
    log = receiver.log.read_text()
    assert "evt_logged" in log
    assert "charge.failed" in log
    assert "webhook.accepted" in log
    assert '"logger": "usage_tasks.webhook_app.receiver"' in log
    assert "bad signature" in log
    for hidden in ("jane@example.com", OBJECT_ID, *SECRETS, "v1="):
        assert hidden not in log
