"""A worker's timer keeps no entry that was cancelled, and loses no other."""

import random
from collections.abc import Sequence
from typing import Any, Final

from celery.utils import timer2
from hypothesis import given
from hypothesis import strategies as st
from kombu.asynchronous import Hub
from kombu.asynchronous.timer import Timer

from usage_tasks.coordination.celery_internals.timer import forget_cancelled

FAR_SECONDS: Final = 3600.0


def test_kombu_keeps_what_was_cancelled_until_it_is_due() -> None:
    # Once it does not, this module can go.
    timer: Any = Timer()
    for _ in range(3):
        timer.call_after(FAR_SECONDS, print).cancel()
    assert len(timer) == 3
    assert forget_cancelled(timer) == 3
    assert len(timer) == 0


@given(st.lists(st.tuples(st.integers(-50, 0), st.booleans()), max_size=60))
def test_what_is_left_comes_in_its_order(entered: Sequence[tuple[int, bool]]) -> None:
    timer: Any = Timer()
    called: list[int] = []
    for eta, cancelled in entered:
        entry = timer.call_at(float(eta), called.append, (eta,))
        if cancelled:
            entry.cancel()
    # A loop holds its iterator, and the list, for as long as it lives.
    entries, queue = iter(timer), timer._queue
    assert forget_cancelled(timer) == sum(cancelled for _, cancelled in entered)
    assert timer._queue is queue
    while queue:
        _, entry = next(entries)
        entry()
    assert called == sorted(eta for eta, cancelled in entered if not cancelled)


def test_a_loop_goes_on_whose_own_callback_forgets() -> None:
    hub: Any = Hub(timer=Timer())
    called: list[str] = []

    def upkeep() -> None:
        assert forget_cancelled(hub.timer) == 500
        called.append("upkeep")

    limits = [hub.call_later(random.uniform(1, FAR_SECONDS), print) for _ in range(500)]
    hub.call_later(-1.0, called.append, "before")
    hub.call_later(-0.5, upkeep)
    hub.call_later(-0.2, called.append, "after")
    for each in limits:
        each.cancel()
    hub.fire_timers()
    assert called == ["before", "upkeep", "after"]
    hub.close()


def test_a_timer_that_is_a_thread_is_left_alone() -> None:
    assert forget_cancelled(timer2.Timer()) == 0
