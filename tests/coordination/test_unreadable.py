"""A message is checked before a worker begins with it: bounds, codecs, shapes; an unreadable one is kept."""

import base64
import bz2
import json
import lzma
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import compression
from kombu.transport import redis as transport

from tests.worker.malformed_shapes import EXPIRED, GOOD, make_envelope, make_item, make_shapes
from usage_tasks.coordination import unreadable_messages
from usage_tasks.coordination.celery_internals.calls import ETA_AHEAD_MAX, check_item
from usage_tasks.coordination.celery_internals.codecs import UNPACKED_BYTES_MAX, CodecError, decompress
from usage_tasks.coordination.celery_internals.envelope import UnreadableError, read_envelope
from usage_tasks.coordination.celery_internals.malformed import guard_channel
from usage_tasks.coordination.celery_internals.queues import read_queues
from usage_tasks.coordination.unreadable_messages import (
    KEPT_BYTES_MAX,
    KEPT_MAX,
    find_unreadable,
    keep_unreadable,
    list_unreadable,
    make_unreadable,
)
from usage_tasks.runtime import Runtime
from usage_tasks.worker.unreadable import UNREAD

AT: Final = datetime(2026, 11, 22, 9, tzinfo=UTC)
PACKERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
PLACES = st.sampled_from([*make_envelope(), *make_envelope()["headers"], *make_envelope()["properties"]])


def is_readable(item: bytes) -> bool:
    try:
        check_item(item, "maintenance")
    except UnreadableError:
        return False
    return True


def test_the_check_agrees_with_what_a_worker_does_with_each_shape() -> None:
    assert {name for name, item in make_shapes().items() if is_readable(item)} == GOOD | EXPIRED


@given(st.binary())
def test_no_bytes_raise_anything_but_unreadable(item: bytes) -> None:
    is_readable(item)


@given(st.dictionaries(PLACES, VALUES, min_size=1, max_size=3))
def test_no_value_anywhere_raises_anything_but_unreadable(changes: dict[str, Any]) -> None:
    envelope = make_envelope()
    for place in (envelope, envelope["headers"], envelope["properties"]):
        place.update({name: value for name, value in changes.items() if name in place})
    is_readable(json.dumps(envelope).encode())


@given(VALUES)
def test_no_body_raises_anything_but_unreadable(body: Any) -> None:
    is_readable(make_item(body=base64.b64encode(json.dumps(body).encode()).decode()))


def test_what_celery_sends_is_readable(redis_url: str, rt: Runtime) -> None:
    sender = Celery("somebody", broker=redis_url, set_as_current=False)
    sender.conf.broker_transport_options = {"global_keyprefix": "usage:", "priority_steps": [0]}
    whole: dict[str, Any] = {"countdown": 60, "expires": 90, "time_limit": 5, "soft_time_limit": 2.5, "priority": 3}
    chained = sender.signature("maintenance.verify", headers={"x": 1}) | sender.signature("maintenance.verify")
    sender.send_task("maintenance.verify", queue="maintenance", shadow="s", ignore_result=True, **whole)
    sender.send_task("maintenance.verify", queue="maintenance", compression="gzip", link=chained, link_error=chained)
    chained.apply_async(queue="maintenance", stamp="yes", stamped_headers=["stamp"], group_id="g")
    sender.close()
    items: Any = rt.redis.lrange("usage:maintenance", 0, -1)
    assert len(items) == 3
    for item in items:
        check_item(item, "maintenance")


def test_the_senders_tag_and_routing_are_not_used() -> None:
    envelope = read_envelope(
        make_item(properties={"delivery_tag": "x", "delivery_info": {"routing_key": "y"}}), "usage"
    )
    assert envelope["properties"]["delivery_tag"] != "x"
    assert envelope["properties"]["delivery_info"] == {"exchange": "", "routing_key": "usage"}


def test_an_eta_is_measured_by_the_clock_of_its_sender() -> None:
    later = AT + timedelta(days=300)  # a clock that is ahead, or the test's, which is behind
    for ahead in (ETA_AHEAD_MAX, timedelta(seconds=10), -timedelta(days=900)):
        headers = {"published_at": later.timestamp(), "eta": (later + ahead).isoformat()}
        assert is_readable(make_item(headers=headers))
    beyond = later + ETA_AHEAD_MAX + timedelta(seconds=1)
    assert not is_readable(make_item(headers={"published_at": later.timestamp(), "eta": beyond.isoformat()}))


@pytest.mark.parametrize("codec", PACKERS)
def test_a_codec_stops_at_the_bound_without_the_memory_for_more(codec: str) -> None:
    whole, bomb = PACKERS[codec](bytes(UNPACKED_BYTES_MAX)), PACKERS[codec](bytes(5 * UNPACKED_BYTES_MAX))
    assert len(decompress(whole, codec)) == UNPACKED_BYTES_MAX
    tracemalloc.start()
    with pytest.raises(CodecError, match="unpacks to more"):
        decompress(bomb, codec)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * UNPACKED_BYTES_MAX


def test_every_codec_that_kombu_knows_is_bounded_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport.Transport, "Channel", transport.Transport.Channel)  # put back after the test
    assert guard_channel(UNREAD)
    for content_type in compression.encoders():
        packed, _ = compression.compress(bytes(UNPACKED_BYTES_MAX + 1), content_type)
        with pytest.raises(CodecError):
            compression.decompress(packed, content_type)


def test_another_series_of_kombu_is_left_alone() -> None:
    assert not guard_channel(UNREAD, "5.8.0")


def test_so_much_is_kept_of_a_message(rt: Runtime) -> None:
    long = make_unreadable(b"x" * (KEPT_BYTES_MAX + 1), queue="usage", reason="long", at=AT)
    odd = make_unreadable(b"\xff\x00", queue="usage", reason="odd", at=AT + timedelta(seconds=1))
    for each in (odd, long, long):
        keep_unreadable(rt.redis, each)
    assert list_unreadable(rt.redis) == [long, odd]
    assert (long.is_whole, long.length, len(long.content)) == (False, KEPT_BYTES_MAX + 1, KEPT_BYTES_MAX)
    assert (odd.is_whole, odd.content_is_base64, odd.read_content()) == (True, True, b"\xff\x00")


def test_the_oldest_make_room(rt: Runtime) -> None:
    made = [
        make_unreadable(str(number).encode(), queue="usage", reason="many", at=AT + timedelta(seconds=number))
        for number in range(KEPT_MAX + 2)
    ]
    gone = [keep_unreadable(rt.redis, each) for each in made]
    assert (sum(gone), unreadable_messages.count_unreadable(rt.redis)) == (2, KEPT_MAX)
    assert find_unreadable(rt.redis, made[1].message_id) is None
    assert find_unreadable(rt.redis, made[2].message_id) == made[2]


def test_a_queue_whose_oldest_message_is_malformed_is_counted(rt: Runtime, subtests: pytest.Subtests) -> None:
    for name, item in make_shapes().items():
        with subtests.test(name):
            rt.redis.delete("usage:usage")
            rt.redis.lpush("usage:usage", item)
            ((state,), unacked) = read_queues(rt.redis, ["usage"])
            assert (state.depth, unacked) == (1, 0)
            assert state.oldest_published_at is None or 0 < state.oldest_published_at < 1e11
