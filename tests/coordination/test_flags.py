from datetime import timedelta

import redis

from usage_tasks.coordination import debounce
from usage_tasks.runtime import Runtime


def test_the_first_of_many_is_told_so_until_the_task_looks(rt: Runtime) -> None:
    assert [debounce.is_first(rt.redis, "look") for _ in range(3)] == [True, False, False]
    debounce.clear(rt.redis, "look")
    assert debounce.is_first(rt.redis, "look")
    assert debounce.is_first(redis.Redis(port=1), "look")


def test_a_flag_that_lasts_longer_than_it_was_set_for_counts_as_none(rt: Runtime) -> None:
    assert debounce.is_first(rt.redis, "look")
    rt.redis.pexpire("usage:hint:look", timedelta(days=62))  # as after a clock that was set back
    assert [debounce.is_first(rt.redis, "look") for _ in range(2)] == [True, False]
    assert rt.redis.ttl("usage:hint:look") <= 60
