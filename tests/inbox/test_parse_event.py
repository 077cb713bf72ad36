"""Snapshot and thin events are read; everything else is refused by its name."""

import json
from typing import Any

import pytest

from tests.inbox.test_apply_events import inbox, payload
from tests.stripe_world.bench import Bench
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.services.inbox.parse_event import parse_event
from usage_tasks.tasks.stripe import events as tasks


def thin(**fields: Any) -> str:
    event = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2026-01-31T10:00:00.123Z",
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    }
    return json.dumps(event | fields)


def stored(bench: Bench) -> list[str]:
    return [row.event_id for row in bench.rows("SELECT event_id FROM stripe_event ORDER BY event_id")]


def test_a_thin_event_is_stored_with_what_it_is_about(bench: Bench, rt: Runtime, broker: str) -> None:
    for new in (1, 0):
        assert tasks.receive_event(event_id="evt_thin", payload=thin()) == {"stored": new}
    row = inbox(bench, "evt_thin")
    assert (row.type, row.object_id) == ("v1.billing.meter.error_report_triggered", "mtr_1")
    assert row.created_at.isoformat() == "2026-01-31T10:00:00.123000+00:00"


@pytest.mark.parametrize(
    "bad",
    [
        {"type": None},
        {"type": "a\u0000"},
        {"created": "soon"},
        {"created": 5},
        {"created": "2026-01-31T10:00:00"},
        {"related_object": "mtr_1"},
        {"related_object": {"id": 7}},
        {"id": "evt_2"},
    ],
)
def test_a_thin_event_that_is_none_is_refused(bench: Bench, rt: Runtime, broker: str, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        tasks.receive_event(event_id="evt_thin", payload=thin(**bad))
    assert stored(bench) == []


def test_a_thin_event_whose_object_has_an_empty_id_is_about_nothing_named() -> None:
    event = parse_event("evt_thin", thin(related_object={"id": "", "type": "meter", "url": ""}))
    assert event.object_id is None


def test_a_payload_of_another_id_is_refused(bench: Bench, rt: Runtime, broker: str) -> None:
    with pytest.raises(InvalidInputError, match="event_id"):
        tasks.receive_event(event_id="evt_2", payload=payload())
    assert bench.rows("SELECT event_id FROM stripe_event") == []


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "no json",
        "[]",
        "null",
        '"evt_1"',
        "{}",
        "[" * 100_000,
        payload(data=None),
        payload(data={"object": []}),
        payload(data={"object": {"id": 5}}),
        payload(data={"object": {"id": "in\u0000"}}),
        payload(type="invoice\u0000"),
        payload(type="\ud800"),
        payload(type=None),
        payload(created="soon"),
        payload(created=None),
        payload(created=10**30),
        payload(created=float("inf")),
        payload(created=float("nan")),
        payload(created=-(10**18)),
    ],
    ids=lambda text: text[:40].encode("ascii", "replace").decode(),
)
def test_garbage_is_refused_at_once(garbage: str) -> None:
    with pytest.raises(InvalidInputError, match="payload"):
        parse_event("evt_1", garbage)


@pytest.mark.holds("receiver.no-event")
def test_an_event_about_something_without_an_id_is_taken() -> None:
    text = payload(type="balance.available", data={"object": {"object": "balance"}})
    assert parse_event("evt_1", text).object_id is None
