"""Thin events have an endpoint, secrets and a parser of their own."""

import json

import pytest

from tests.webhook_app.conftest import Queued, Receiver, make_event, make_thin_event
from tests.webhook_app.receiver import SECRETS, THIN_SECRETS


@pytest.mark.holds("receiver.thin-event")
@pytest.mark.parametrize("secret", THIN_SECRETS)
def test_a_thin_event_is_in_the_queue_once_it_is_answered(receiver: Receiver, queued: Queued, secret: str) -> None:
    body = make_thin_event()
    assert receiver.post_thin(body, secret=secret).status == 200
    [message] = queued()
    assert message.payload[1] == {"event_id": "evt_thin_1", "payload": body.decode()}


def test_a_thin_event_of_a_type_that_nobody_knows_is_taken(receiver: Receiver, queued: Queued) -> None:
    assert receiver.post_thin(make_thin_event(type="v9.from.the.future")).status == 200
    assert len(queued()) == 1


@pytest.mark.holds("receiver.thin-event")
@pytest.mark.parametrize("secret", SECRETS)
def test_the_secrets_of_snapshots_do_not_sign_thin_events(receiver: Receiver, queued: Queued, secret: str) -> None:
    assert receiver.post_thin(make_thin_event(), secret=secret).status == 400
    assert receiver.post(make_event(), secret=THIN_SECRETS[0]).status == 400
    assert queued() == []


@pytest.mark.holds("receiver.thin-event")
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (make_event(), "body is no thin event"),
        (b"[]", "body is no thin event"),
        (b"{", "body is not JSON"),
        (make_thin_event(id=None), "event without an id"),
        (make_thin_event(type=7), "event without a type"),
        (make_thin_event(related_object="mtr_1"), "body is no thin event"),
        (json.dumps({"object": "v2.core.event", "id": "evt_1", "type": "x"}).encode(), "body is no thin event"),
    ],
)
def test_what_the_sdk_takes_for_no_thin_event_is_refused(
    receiver: Receiver, queued: Queued, body: bytes, reason: str
) -> None:
    answer = receiver.post_thin(body)
    assert (answer.status, answer.text) == (400, f"{reason}\n")
    assert queued() == []
