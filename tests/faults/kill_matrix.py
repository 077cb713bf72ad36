"""The kill matrix: every task of the queues billing and stripe, killed at each of its steps and run again.

`python -m tests.faults.kill_matrix` runs it and writes the table into docs/fault-matrix.md; the tests check that the
table is true. The initial situation of each task is in killed_tasks.py.
"""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.deaths import Life, Mortals, end_locks, left_behind
from tests.stripe_world.bench import Bench
from tests.stripe_world.whole import Rows, Whole, time_passes
from tests.stripe_world.world import GRACE
from usage_tasks.celery import app
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.runtime import Runtime

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "fault-matrix.md"
WRITE: Final = "WRITE_FAULT_MATRIX"
_BEGIN: Final = "<!-- the matrix: python -m tests.faults.kill_matrix -->\n"
_END: Final = "<!-- end of the matrix -->\n"
_CUTS: Final = ("cut_before", "cut_after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A task and its initial situation: `arrange` makes it, and returns the task's arguments.

    `effects`: the final rows or objects, by table or Stripe's type of object, with their counts. `noted_again`: audit
    rows written before a call, and Stripe's events about an unchanged object: a second run writes these once more.
    `then`: the task that finishes open work. `bills`: the final and booked invoice is compared, not its draft. `waits`:
    the task itself waits and calls again after a lost answer, so that no answer is lost here.
    """

    task: str
    situation: str
    arrange: Callable[[Bench], dict[str, Any]]
    effects: dict[str, int] = field(default_factory=dict)
    noted_again: tuple[str, ...] = ()
    then: str = ""
    bills: bool = False
    waits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How often a case was killed around calls and commits, the claims of the dead, and how many answers were lost."""

    calls: int
    commits: int
    killed: int
    left: frozenset[str]
    lost: int


def try_case(bench: Bench, rt: Runtime, mortals: Mortals, case: Case, *, whole: bool) -> Outcome:
    """Run a case, clean at first, then killed at each step and run again; fail if the ends differ.

    The state before a step is the state after the previous one, and equal states have equal futures: only the `whole`
    matrix runs again after all of them. It also runs again at once, while the leases and locks of the dead process
    still hold.
    """
    arguments = case.arrange(bench)
    told = f"{case.task}, {case.situation}"
    trial = _Trial(bench, rt, mortals, case, arguments)
    with trial.before as before:
        life = trial.live()
        trial.finish()
        expected = trial.read()
        assert {name: len(expected.get(name, [])) for name in case.effects} == case.effects, told
        assert life.calls_in_transaction == 0, f"{told}: a transaction is open during a call"
        trial.again()
        _compare(trial.read(), expected, f"{told}: run twice")
        seen: list[Rows] = []
        left: set[str] = set()
        for step in life.steps:
            if not whole and step.endswith("before") and step != life.steps[0]:
                continue  # nothing was written since the step before it
            held = trial.die(step)
            left |= held
            if whole or _is_new(before.read(leases=True) | {"held": sorted(held)}, seen):
                if whole and held:
                    trial.run_at_once()
                trial.again()
                _compare(trial.read(), expected, f"{told}: killed at {step}")
        calls = life.count("call")
        lost = 0 if case.waits else calls
        for kind in _CUTS if whole else _CUTS[1:]:
            for number in range(lost):
                trial.lose(kind, number)
                if whole or _is_new(before.read(leases=True), seen):
                    trial.again()
                    _compare(trial.read(), expected, f"{told}: {kind} at request {number + 1}")
    return Outcome(
        calls=calls,
        commits=life.count("commit"),
        killed=len(life.steps),
        left=frozenset(left),
        lost=lost * len(_CUTS),
    )


class _Trial:
    """One case's task, run by processes that may die, and again by this one, as a sweep does."""

    def __init__(self, bench: Bench, rt: Runtime, mortals: Mortals, case: Case, arguments: dict[str, Any]) -> None:
        self._bench, self._rt, self._mortals, self._case, self._arguments = bench, rt, mortals, case, arguments
        self.before = Whole(bench)
        self._began_at, self._final_at = bench.now(), bench.now() + GRACE

    def live(self) -> Life:
        """Run the task in a process of its own that nothing kills."""
        self._begin()
        return self._mortals.run(self._bench, task=self._case.task, arguments=self._arguments)

    def die(self, step: str) -> set[str]:
        """Run the task in a process that is killed at a step; return its remaining claims."""
        self._begin()
        self._mortals.run(self._bench, task=self._case.task, arguments=self._arguments, at=step)
        return left_behind(self._bench, self._rt.redis)

    def _begin(self) -> None:
        self.before.restore()
        self._rt.redis.flushdb()
        TestClock(self._rt.redis).advance(self._began_at)

    def _run(self) -> None:
        self._rt.stripe_checked_at = None
        app.tasks[self._case.task](**self._arguments)

    def run_at_once(self) -> None:
        """Run while another process seems to be at work: the task may refuse, or do its work."""
        with suppress(PermanentError, RetryableError):
            self._run()

    def again(self) -> None:
        """Run when leases and locks have ended; a refusal is an end, too."""
        self._wait()
        with suppress(PermanentError):
            self._run()
        self.finish()

    def finish(self) -> None:
        """Finish open work, and let a draft become final."""
        if self._case.then:
            self._wait()
            app.tasks[self._case.then]()
        if self._case.bills:
            self._bench.world.advance(self._final_at)
            self._bench.handle_all(self._final_at)

    def _wait(self) -> None:
        time_passes(self._bench)
        end_locks(self._rt.redis)

    def lose(self, kind: str, number: int) -> None:
        """Run once with a request's answer lost."""
        self._begin()
        faults = self._bench.world.server.simulator.faults
        faults.add({"kind": kind, "skip": number, "count": 1})
        try:
            self._run()
        except (PermanentError, RetryableError):
            pass
        finally:
            lost = faults.summary()["counts"]
            faults.remove(None)
        assert lost == {kind: 1}

    def read(self) -> Rows:
        found = self.before.read()
        for name in ("audit", "stripe:event") if self._case.noted_again else ():
            again = {row for row in found[name] for noted in self._case.noted_again if noted in row}
            found[name] = sorted([row for row in found[name] if row not in again] + list(again))
        return found


def _is_new(state: Rows, seen: list[Rows]) -> bool:
    """Return True if a state is new, and remember it: equal states have equal futures."""
    if state in seen:
        return False
    seen.append(state)
    return True


def _compare(found: Rows, expected: Rows, told: str) -> None:
    for name in sorted({*found, *expected}):
        assert found.get(name, []) == expected.get(name, []), f"{told}: {name}"


def row_of(case: Case, outcome: Outcome) -> str:
    """Return a line of the table."""
    effects = ", ".join(f"{count} {name.removeprefix('stripe:')}" for name, count in case.effects.items()) or "none"
    again = "".join(f"; `{noted}` perhaps noted twice" for noted in case.noted_again)
    end = "as if never killed" + again + (f"; `{case.then}` takes up what is left" if case.then else "")
    left = ", ".join(sorted(outcome.left)) or "nothing"
    counts = (outcome.calls, outcome.commits, outcome.killed, left, outcome.lost)
    cells = (f"`{case.task}`", case.situation, *counts, effects)
    return " | ".join(("", *map(str, cells), end, "")).strip() + "\n"


def lines_of_document() -> Iterator[str]:
    """Yield the lines of the present table."""
    yield from DOCUMENT.read_text().partition(_BEGIN)[2].partition(_END)[0].splitlines(keepends=True)


def keep(case: Case, line: str) -> None:
    """Put a line into the document, in the place of the one of the same case."""
    with DOCUMENT.open("r+") as document:
        fcntl.flock(document, fcntl.LOCK_EX)  # several processes write lines
        head, begin, rest = document.read().partition(_BEGIN)
        table, end, tail = rest.partition(_END)
        start = f"| `{case.task}` | {case.situation} |"
        lines = table.splitlines(keepends=True)
        others = [one for one in lines[2:] if not one.startswith(start)]
        document.seek(0)
        document.write(head + begin + "".join([*lines[:2], *sorted([*others, line])]) + end + tail)
        document.truncate()


if __name__ == "__main__":
    os.environ[WRITE] = "1"
    options = ["-q", "-p", "no:cacheprovider", "-n", "2", "-o", "timeout=600"]
    sys.exit(pytest.main([*options, str(Path(__file__).with_name("test_kill_matrix.py"))]))
