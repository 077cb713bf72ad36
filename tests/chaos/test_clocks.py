"""Clocks that differ and jump, in real processes; `make chaos` puts a load on top."""

from collections.abc import Iterator

import pytest

from tests.chaos import clocks
from tests.chaos.clocks import AHEAD, clocks_world
from tests.chaos.world import World

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Two workers, one with a right clock and one with a clock far ahead, and a beat with a clock far behind."""
    with clocks_world({"work": AHEAD * 0, "work 2": AHEAD, "beat 1": -AHEAD}) as running:
        yield running


@pytest.mark.holds("clocks.ticks")
def test_a_worker_far_ahead_of_beat_runs_the_jobs(world: World) -> None:
    assert clocks.skewed_ticks(world).holds


@pytest.mark.holds("clocks.waits")
def test_a_retry_waits_as_long_as_its_sender_said_by_whatever_clock(world: World) -> None:
    assert clocks.skewed_retries(world).holds


@pytest.mark.holds("clocks.waits")
def test_a_worker_far_ahead_takes_back_nothing_that_another_works_on(world: World) -> None:
    assert clocks.skewed_redelivery(world).holds


@pytest.mark.holds("clocks.ticks")
def test_a_beat_whose_clock_jumps_goes_on(world: World) -> None:
    assert clocks.jumping_beat(world).holds
