"""Timing, the table and the JSON file."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROUNDS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure: the median of its rounds, in `unit`, beside the figure to compare it with."""

    name: str
    value: float
    unit: str
    beside: str
    beside_value: float | None
    bound: str
    holds: bool
    rounds: list[float]


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work took, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cpu_seconds(*processes: int) -> float:
    """Return the processor time that processes have used, user and system."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def median(rounds: list[float]) -> float:
    """Return the middle of the rounds."""
    return statistics.median(rounds)


def show(figures: list[Figure], target: Path) -> None:
    """Print the table and write the JSON."""
    lines = [("what", "median", "beside", "bound", "holds")]
    for each in figures:
        beside = each.beside if each.beside_value is None else f"{each.beside} {each.beside_value:,.4g} {each.unit}"
        lines.append((each.name, f"{each.value:,.4g} {each.unit}", beside, each.bound, "yes" if each.holds else "NO"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")
    target.write_text(json.dumps([asdict(each) for each in figures], indent=2))
