"""The kill matrix: every task of the queues billing and stripe, killed at each of its steps and run again.

`python -m tests.billing.kill_matrix` runs it and writes the table into docs/fault-matrix.md; the tests check that what
stands there is true. What a task starts from, its situation, is in killed_tasks.py.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.billing.bench import Bench, CrashError
from tests.billing.dead import Fuse, MortalDatabase
from tests.billing.whole import Rows, Whole, time_passes
from tests.billing.world import EVENT_NAME, GRACE, KEY
from usage_tasks.celery import app
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.runtime import Runtime
from usage_tasks.stripe_gateway.live import LiveGateway

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "fault-matrix.md"
WRITE: Final = "WRITE_FAULT_MATRIX"
_BEGIN: Final = "<!-- the matrix: python -m tests.billing.kill_matrix -->\n"
_END: Final = "<!-- end of the matrix -->\n"
_CUTS: Final = ("cut_before", "cut_after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A task and what it starts from: `arrange` makes it, and answers the task's arguments.

    `effects`: what must be there in the end, by table or type of object of Stripe's, and how many. `noted_again`: the
    actions that the audit notes before their call, and the events of Stripe's about what is only said again: a second
    run makes them once more. `then`: the task that takes up what is left open. `bills`: what counts
    is the invoice once it is final and booked, not its draft. `waits`: the task itself waits
    and calls again where an answer is lost, so that no answer is lost here.
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
    """How often a case was killed around calls and commits, and how many answers were lost."""

    calls: int
    commits: int
    killed: int
    lost: int


def try_case(bench: Bench, rt: Runtime, case: Case, *, whole: bool) -> Outcome:
    """Run a case, clean at first, then killed at each step and run again; fail where the ends differ.

    Before a step stands what stood after the one before it, and what follows from one state was seen the first time:
    only the `whole` matrix runs again after all of them.
    """
    arguments = case.arrange(bench)
    TestClock(rt.redis).advance(bench.now())
    told = f"{case.task}, {case.situation}"
    with Whole(bench) as before:
        trial = _Trial(bench, rt, case, arguments)
        fuse = Fuse()
        trial.run(fuse)
        trial.finish()
        expected = trial.read(before)
        assert {name: len(expected.get(name, [])) for name in case.effects} == case.effects, told
        assert fuse.calls_in_transaction == 0, f"{told}: a transaction is open during a call"
        trial.again()
        _compare(trial.read(before), expected, f"{told}: run twice")
        seen: list[Rows] = []
        for step in fuse.steps():
            if not whole and step.endswith("before") and step != "commit 1 before":
                continue  # nothing was written since the step before it
            before.restore()
            with pytest.raises(CrashError):
                trial.run(Fuse(step))
            if whole or _is_new(before.read(leases=True), seen):
                trial.again()
                _compare(trial.read(before), expected, f"{told}: killed at {step}")
        lost = [] if case.waits else list(range(fuse.counts["call"]))
        for kind in _CUTS if whole else _CUTS[1:]:
            for number in lost:
                before.restore()
                trial.lose(kind, number)
                if whole or _is_new(before.read(leases=True), seen):
                    trial.again()
                    _compare(trial.read(before), expected, f"{told}: {kind} at request {number + 1}")
    return Outcome(
        calls=fuse.counts["call"],
        commits=fuse.counts["commit"],
        killed=len(fuse.steps()),
        lost=len(lost) * len(_CUTS),
    )


class _Trial:
    """One case's task, to be run by a process that a fuse may end."""

    def __init__(self, bench: Bench, rt: Runtime, case: Case, arguments: dict[str, Any]) -> None:
        self._bench, self._rt, self._case, self._arguments = bench, rt, case, arguments
        self._final_at = bench.now() + GRACE

    def run(self, fuse: Fuse) -> None:
        """Run the task as a worker does; what it refuses is an end, too."""
        self._equip(fuse)
        try:
            app.tasks[self._case.task](**self._arguments)
        except PermanentError:
            assert not fuse.dead, "a death became an error"

    def _equip(self, fuse: Fuse) -> None:
        rt = self._rt
        rt.stripe_checked_at = None
        rt.database = MortalDatabase(self._bench.database, fuse)
        rt.stripe = LiveGateway(
            secret_key=KEY, meter_event_name=EVENT_NAME, api_base=self._bench.world.url, admission=fuse.call
        )

    def again(self) -> None:
        time_passes(self._bench)
        self.run(Fuse())
        self.finish()

    def finish(self) -> None:
        """Let what is left open be taken up, and a draft become final."""
        if self._case.then:
            time_passes(self._bench)
            self._equip(Fuse())
            app.tasks[self._case.then]()
        if self._case.bills:
            self._bench.world.advance(self._final_at)
            self._bench.handle_all(self._final_at)

    def lose(self, kind: str, number: int) -> None:
        """Run once with a request's answer lost."""
        faults = self._bench.world.server.simulator.faults
        faults.add({"kind": kind, "skip": number, "count": 1})
        try:
            self.run(Fuse())
        except RetryableError:
            pass
        finally:
            lost = faults.summary()["counts"]
            faults.remove(None)
        assert lost == {kind: 1}

    def read(self, before: Whole) -> Rows:
        found = before.read()
        for name in ("audit", "stripe:event") if self._case.noted_again else ():
            again = {row for row in found[name] for noted in self._case.noted_again if noted in row}
            found[name] = sorted([row for row in found[name] if row not in again] + list(again))
        return found


def _is_new(state: Rows, seen: list[Rows]) -> bool:
    """Tell whether a state was not met yet, and remember it: what follows from the same state is the same."""
    if state in seen:
        return False
    seen.append(state)
    return True


def _compare(found: Rows, expected: Rows, told: str) -> None:
    for name in sorted({*found, *expected}):
        assert found.get(name, []) == expected.get(name, []), f"{told}: {name}"


def row_of(case: Case, outcome: Outcome) -> str:
    """A line of the table."""
    effects = ", ".join(f"{count} {name.removeprefix('stripe:')}" for name, count in case.effects.items()) or "none"
    again = "".join(f"; `{noted}` perhaps noted twice" for noted in case.noted_again)
    end = "as if never killed" + again + (f"; `{case.then}` takes up what is left" if case.then else "")
    cells = (f"`{case.task}`", case.situation, outcome.calls, outcome.commits, outcome.killed, outcome.lost, effects)
    return " | ".join(("", *map(str, cells), end, "")).strip() + "\n"


def lines_of_document() -> Iterator[str]:
    """The lines of the table as it stands."""
    yield from DOCUMENT.read_text().partition(_BEGIN)[2].partition(_END)[0].splitlines(keepends=True)


def keep(case: Case, line: str) -> None:
    """Put a line into the document, in the place of the one of the same case."""
    head, begin, rest = DOCUMENT.read_text().partition(_BEGIN)
    table, end, tail = rest.partition(_END)
    start = f"| `{case.task}` | {case.situation} |"
    lines = table.splitlines(keepends=True)
    others = [one for one in lines[2:] if not one.startswith(start)]
    DOCUMENT.write_text(head + begin + "".join([*lines[:2], *sorted([*others, line])]) + end + tail)


if __name__ == "__main__":
    os.environ[WRITE] = "1"
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", str(Path(__file__).with_name("test_kill_matrix.py"))]))
