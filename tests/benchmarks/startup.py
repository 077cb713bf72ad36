"""`python -m tests.benchmarks.startup`: the cost of `usage-tasks --help` before any work, beside a bare Python.

The cost is processor time, not elapsed time: other programs on the machine disturb it less. Both are measured side by
side, so that a busy machine slows both.
"""

import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.benchmarks.measure import Figure, median, show

ROUNDS: Final = 7
RATIO_MAX: Final = 25
BARE: Final = ("-c", "pass")
STARTS: Final = {
    "usage-tasks --help": (("-m", "usage_tasks", "--help"), RATIO_MAX),
    "import usage_tasks": (("-c", "import usage_tasks"), 2),
    "usage-tasks settings --help": (("-m", "usage_tasks", "settings", "--help"), None),
    "usage-tasks jobs --help": (("-m", "usage_tasks", "jobs", "--help"), None),
}


def cpu_seconds_of(arguments: Sequence[str]) -> float:
    """Return the processor time of a new interpreter, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def figure(name: str, arguments: Sequence[str], ratio_max: int | None) -> Figure:
    """Measure one start beside a bare interpreter's."""
    cpu_seconds_of(arguments)  # bytecode is written once
    rounds = [(cpu_seconds_of(arguments), cpu_seconds_of(BARE)) for _ in range(ROUNDS)]
    ours, bare = (median([each[which] for each in rounds]) for which in (0, 1))
    return Figure(
        name=name,
        value=ours,
        unit="s of CPU",
        beside="python -c pass",
        beside_value=bare,
        bound=f"ratio {ours / bare:.1f}" + (f" of {ratio_max}" if ratio_max else ""),
        holds=ratio_max is None or ours / bare <= ratio_max,
        rounds=[ours for ours, _ in rounds],
    )


def main() -> int:
    """Print the figures; return 1 if a bound does not hold."""
    figures = [figure(name, *start) for name, start in STARTS.items()]
    Path(".data").mkdir(exist_ok=True)
    show(figures, Path(".data") / "bench-startup.json")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
