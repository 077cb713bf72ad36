"""How long to wait for a process, measured in its own time: a busy machine makes it slower, not hung.

A start takes a few seconds of a processor. On a machine with six processes for each processor it takes six times as
long by the clock. So the time in which a process waits for a processor, or is stopped, does not count. A process that
waits for anything else, as a hung one does, is given up as soon as on an idle machine.

Linux only, where /proc shows it. Elsewhere all time counts.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CLOCK_FACTOR_MAX: Final = 15
"""A wait ends after this many times its seconds by the clock, whatever the process did."""

_SAMPLE_SECONDS: Final = 0.1
_RUNNABLE: Final = "R"
_HELD_UP: Final = frozenset("TtD")
"""Stopped by a signal or a debugger; waiting for a disk."""

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Patience:
    """Waits for a process and its descendants; call `is_over` again and again."""

    def __init__(self, pid: int, *, seconds_max: float) -> None:
        self._pid, self._seconds_max = pid, seconds_max
        self._started = self._sampled = time.monotonic()
        self._own_seconds = 0.0
        _, self._processor_seconds = _sample(pid)

    def is_over(self) -> bool:
        """Whether the process has had its time."""
        now = time.monotonic()
        if now - self._sampled >= min(_SAMPLE_SECONDS, self._seconds_max / 10):
            self._count(now)
        return self._own_seconds > self._seconds_max or now - self._started > CLOCK_FACTOR_MAX * self._seconds_max

    def describe(self) -> str:
        """The time that was given, for a message: by the clock too where the process could not use all of it."""
        by_clock = time.monotonic() - self._started
        if by_clock < 1.2 * self._seconds_max:
            return f"{self._seconds_max:g} s"
        busy = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
        return f"{by_clock:.3g} s, of which it could use {self._own_seconds:.3g} s ({busy})"

    def _count(self, now: float) -> None:
        elapsed, self._sampled = now - self._sampled, now
        states, processor_seconds = _sample(self._pid)
        used, self._processor_seconds = processor_seconds - self._processor_seconds, processor_seconds
        if _RUNNABLE in states:
            self._own_seconds += min(elapsed, max(0.0, used))
        elif not states & _HELD_UP:
            self._own_seconds += elapsed


def _sample(pid: int) -> tuple[frozenset[str], float]:
    """Return the states of a process and its descendants, and the processor's seconds that they have used."""
    states, ticks = set(), 0
    for each in _family(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended, or no Linux
            continue
        states.add(fields[0])
        # Its own and its system calls', and those of the children it has waited for.
        ticks += sum(map(int, fields[11:15]))
    return frozenset(states), ticks / _TICKS_PER_SECOND


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        files = list(Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:  # ended, or no Linux
        return
    for file in files:
        try:
            children = file.read_text().split()
        except OSError:  # only this thread has ended
            continue
        for child in children:
            yield from _family(int(child))
