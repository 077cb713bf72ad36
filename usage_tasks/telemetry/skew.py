"""Find the wrong one of several clocks: it is apart from the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Final

HOST: Final = "host"
SKEW_MAX: Final = timedelta(seconds=2)
"""Clocks that a time service keeps differ by milliseconds; what we decide by them, minutes would harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """By how much a clock is ahead of this host's, in seconds, and by how much that may be wrong."""

    ahead: float
    slack: float

    @property
    def differs(self) -> bool:
        """True if the two clocks certainly show different times."""
        return abs(self.ahead) > SKEW_MAX.total_seconds() + self.slack


def read_clock(shown: float, *, asked: float, answered: float, resolution: float = 0.0) -> ClockReading:
    """Return the reading of a clock that showed `shown` between two instants of this host's; all in Unix seconds.

    Half of the round trip is taken to have passed each way. `resolution` is the unit that the clock is cut down to.
    """
    at = (asked + answered) / 2
    return ClockReading(ahead=shown + resolution / 2 - at, slack=(answered - asked + resolution) / 2)


def find_wrong(readings: Mapping[str, ClockReading]) -> Sequence[str]:
    """Return the names of the clocks that are apart from the middle of all, this host's (`host`) among them.

    Of two clocks it is unknown which is wrong: both are named, if they differ.
    """
    all_clocks = {HOST: ClockReading(ahead=0.0, slack=0.0), **readings}
    middle = median(each.ahead for each in all_clocks.values())
    apart = {name: ClockReading(ahead=each.ahead - middle, slack=each.slack) for name, each in all_clocks.items()}
    if len(all_clocks) == 2:  # noqa: PLR2004 - the middle is half way between
        return sorted(all_clocks) if any(each.differs for each in readings.values()) else []
    return sorted(name for name, each in apart.items() if each.differs)
