"""The clocks that this process has seen: the database's, Redis's, Stripe's and its host's, in a metric and the log.

A host's clock decides nothing that is written (docs/adr/0024), yet logs, time-outs of others and an operator use it,
and all time depends on the database's clock. A clock that is wrong or jumps is reported, never corrected.
"""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import structlog

from usage_tasks.telemetry.metrics import CLOCK_JUMPS, CLOCK_SKEW
from usage_tasks.telemetry.skew import HOST, SKEW_MAX, ClockReading, find_wrong, read_clock

log = structlog.get_logger(__name__)

STRIPE: Final = "stripe"
_FRESH_SECONDS: Final = 300.0
"""An older reading is useless: the clock may have been set meanwhile."""

_WHOLE_SECONDS: Final = 1.0
"""The resolution of a Date header."""


class Clocks:
    """The readings that one process has of the clocks around it."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[float, ClockReading]] = {}
        self._last: dict[str, tuple[float, float]] = {}

    def ask(self, peer: str, clock: Callable[[], float]) -> ClockReading:
        """Read a peer's clock, which answers with Unix seconds. Errors of the asking are the caller's."""
        asked = time.time()
        shown = clock()
        return self._note(peer, shown, read_clock(shown, asked=asked, answered=time.time()))

    def note_date(self, peer: str, date: datetime, *, asked: float) -> None:
        """Read a peer's clock from the Date header of an answer that has just come."""
        shown = date.timestamp()
        reading = read_clock(shown, asked=asked, answered=time.time(), resolution=_WHOLE_SECONDS)
        self._note(peer, shown, reading, resolution=_WHOLE_SECONDS)

    def fresh(self) -> Mapping[str, ClockReading]:
        """Return the readings of the last minutes, by peer."""
        now = time.monotonic()
        return {peer: reading for peer, (at, reading) in self._read.items() if now - at < _FRESH_SECONDS}

    def report(self) -> None:
        """Log a warning if a clock is wrong, and look whether this host's has jumped."""
        self._look_for_jump(HOST, time.time())
        readings = self.fresh()
        if wrong := find_wrong(readings):
            ahead = {f"{peer}_ahead_seconds": round(each.ahead, 3) for peer, each in readings.items()}
            log.warning("clock.wrong", clocks=wrong, **ahead)

    def _note(self, peer: str, shown: float, reading: ClockReading, *, resolution: float = 0.0) -> ClockReading:
        self._read[peer] = (time.monotonic(), reading)
        CLOCK_SKEW.labels(peer).set(reading.ahead)
        self._look_for_jump(peer, shown, resolution=resolution)
        return reading

    def _look_for_jump(self, clock: str, shown: float, *, resolution: float = 0.0) -> None:
        now = time.monotonic()
        before, self._last[clock] = self._last.get(clock), (now, shown)
        if before is None:
            return
        jump = shown - before[1] - (now - before[0])
        if abs(jump) > SKEW_MAX.total_seconds() + resolution:
            CLOCK_JUMPS.labels(clock).inc()
            log.warning("clock.jumped", clock=clock, seconds=round(jump, 3))


CLOCKS: Final = Clocks()
"""Those of this process."""
