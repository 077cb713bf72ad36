"""The matrix itself: a fault that does not hold is named, with the reason; a leak is seen in each process."""

from collections.abc import Callable, Iterator

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos import broker_errors, clocks, faults, wrong_installation
from tests.chaos.faults import Line, attempt, begin, judge_memory, line

CHILD_KIB = 86_000
MAIN_KIB = 112_000


def leaking(start_kib: int, *, bytes_each: int, tasks: int = 100_000) -> list[int]:
    """The memory of a process that keeps something of each task, looked at after each thousand."""
    return [start_kib + bytes_each * done // 1024 for done in range(1000, tasks + 1, 1000)]


@pytest.mark.parametrize("name", ["main", "child"])
def test_a_process_that_keeps_100_bytes_a_task_is_named_with_its_growth(name: str) -> None:
    assert list(judge_memory(name, leaking(CHILD_KIB, bytes_each=100))) == [
        f"{name} grew from 85.0 to 93.5 MiB after its first tenth, 8.0 are allowed"
    ]


def test_a_process_that_is_too_large_from_the_beginning_is_named_with_its_level() -> None:
    assert list(judge_memory("main", leaking(140_000, bytes_each=0))) == [
        "main held up to 136.7 MiB, 128.0 are allowed"
    ]


def test_time_limits_that_are_kept_for_54_seconds_are_a_growth_though_it_levels_off() -> None:
    # As measured, before the upkeep of a worker forgot them: 10,000 tasks each, at 900 a second.
    seen = [123_360, 130_096, 135_736, 141_380, 147_024, 151_556, 151_700, 151_800, 151_900, 151_900]
    assert [words.partition(" ")[2] for words in judge_memory("main", seen)] == [
        "held up to 148.3 MiB, 128.0 are allowed",
        "grew from 127.0 to 148.3 MiB after its first tenth, 8.0 are allowed",
    ]


def test_a_process_that_warms_up_and_stays_is_fine() -> None:
    warm = [MAIN_KIB + 500 * min(done, 9) for done in range(100)]
    assert list(judge_memory("main", warm)) == []
    assert list(judge_memory("main", leaking(MAIN_KIB, bytes_each=50))) == []


def broken(error: Exception, *, name: str = "") -> Callable[[], Line]:
    """A fault after which something does not hold."""

    def nobody_answers() -> Line:
        if name:
            begin(name)
        raise error

    return nobody_answers


@pytest.mark.parametrize("error", [AssertionError("the worker has exited"), TimeoutError("the worker\n has exited")])
def test_the_line_of_a_fault_that_does_not_hold_names_it_and_says_what(error: Exception) -> None:
    found = attempt(broken(error, name="network cut for 30 s"))
    assert (found.fault, found.outcome, found.holds) == (
        "network cut for 30 s",
        "FAILED: the worker has exited",
        False,
    )


def test_a_fault_that_has_not_named_itself_is_named_by_its_function_and_by_no_earlier_one() -> None:
    attempt(lambda: line(begin("broker restarted"), "goes on", 1, 2))
    assert attempt(broken(AssertionError())) == Line(
        fault="nobody answers",
        outcome="FAILED: an assertion without words",
        recovery_seconds=0,
        bound_seconds=0,
        holds=False,
    )


def test_a_world_that_does_not_come_up_is_a_line_and_the_next_part_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def down() -> Iterator[Callable[[], Line]]:
        raise TimeoutError("maintenance.chaos_nothing: no answer within 70 s")
        yield

    def up() -> Iterator[Callable[[], Line]]:
        yield lambda: line("poison message", "parked", 1, 2)

    monkeypatch.setitem(chaos.PARTS, "down", down)
    monkeypatch.setitem(chaos.PARTS, "up", up)
    done = [attempt(run) for run in chaos.lines(["down", "up"])]
    assert [(each.fault, each.holds) for each in done] == [
        ("down: the start of its world", False),
        ("poison message", True),
    ]


def test_each_fault_names_itself_before_it_does_anything() -> None:
    found = [
        function
        for module in (broker_errors, clocks, faults, wrong_installation)
        for function in (*vars(module).values(), *vars(broker_errors.Installation).values())
        if getattr(function, "__module__", "") == module.__name__
        and getattr(function, "__annotations__", {}).get("return") is Line
        and function not in {attempt, line, faults.failed}
    ]
    assert len(found) >= 20
    assert [each.__name__ for each in found if begin.__name__ not in each.__code__.co_names] == []
