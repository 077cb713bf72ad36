"""At most one tick of a task waits, and no lost or forgotten tick delays the next one."""

import pytest
import redis

from usage_tasks.coordination.celery_internals.queues import list_key
from usage_tasks.coordination.ticks import WAIT_MAX, may_send, note_begun
from usage_tasks.runtime import Runtime

TICK = "usage.reconcile"
KEY = f"usage:tick:{TICK}"


def tick(rt: Runtime) -> bool:
    """Send a tick as beat does."""
    sent = may_send(rt.redis, TICK, queue="usage")
    if sent:
        rt.redis.lpush(list_key(rt.redis, "usage"), "a tick")
    return sent


@pytest.mark.holds("clocks.ticks")
def test_while_a_tick_waits_no_beat_sends_another(rt: Runtime) -> None:
    assert [tick(rt) for _ in range(360)] == [True] + 359 * [False]
    assert may_send(rt.redis, "usage.reset", queue="usage")  # another task's ticks are its own


def test_a_tick_that_was_begun_makes_room_for_the_next_though_others_wait(rt: Runtime) -> None:
    assert tick(rt)
    note_begun(rt.redis, TICK)
    assert tick(rt)


def test_a_tick_that_is_in_no_queue_was_taken_or_lost_and_the_next_one_is_sent(rt: Runtime) -> None:
    assert tick(rt)
    rt.redis.delete(list_key(rt.redis, "usage"))
    assert tick(rt)


def test_a_flag_of_a_broker_whose_clock_was_set_back_keeps_no_tick_back(rt: Runtime) -> None:
    assert tick(rt)
    assert 0 < rt.redis.pttl(KEY) <= WAIT_MAX.total_seconds() * 1000
    rt.redis.pexpire(KEY, WAIT_MAX * 2)
    assert tick(rt)
    assert not tick(rt)


def test_without_the_broker_a_tick_is_tried() -> None:
    away = redis.Redis(port=1)
    assert may_send(away, TICK, queue="usage")
    note_begun(away, TICK)
