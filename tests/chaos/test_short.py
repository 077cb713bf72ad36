"""The short half of the chaos suite; `make chaos` has the long one, and prints the matrix."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.chaos import faults
from tests.chaos.__main__ import silencable
from tests.chaos.quarter import Sample
from tests.chaos.world import BEATS, World, running_world
from tests.chaos.wrong_installation import wrong_installation

SAMPLE = Sample(every=200, step=timedelta(days=20))
pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One world for all: each fault must leave it as it was."""
    with running_world("work", *BEATS) as running:
        faults.works(running)
        yield running


def test_a_worker_outlives_a_restart_of_its_broker(world: World) -> None:
    assert faults.broker_restart(world).holds


def test_everybody_is_healthy_and_says_so(world: World) -> None:
    world.wait("heartbeats", lambda: not world.unhealthy() and len(list(world.directory.glob("heartbeats/*"))) >= 3)


def test_a_flushed_broker_is_filled_by_the_next_ticks(world: World) -> None:
    assert faults.broker_flushed(world).holds


def test_a_worker_of_another_installation_is_refused_and_nothing_is_lost(world: World) -> None:
    assert wrong_installation(world).holds


def test_a_worker_with_nothing_to_do_but_ticks_ends_soon(world: World) -> None:
    assert faults.terminated(world, ticking=True).holds


def test_a_task_longer_than_the_grace_is_handed_on(world: World) -> None:
    # 7 s longer than the grace: on a busy machine its beginning is seen late.
    assert faults.terminated(world, nap=12).holds


def test_a_sample_of_the_quarter_comes_out_the_same_whoever_is_killed() -> None:
    assert faults.quarter_with_kills(seed=1, sample=SAMPLE).holds


def test_threads_whose_database_went_silent_answer_again_and_their_locks_are_free() -> None:
    with running_world() as world:
        silencable(world, "threads")
        assert faults.silent_database(world, "threads", 8).holds
