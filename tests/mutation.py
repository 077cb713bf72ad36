"""`python -m tests.mutation`: how many small changes of the rules their tests notice, from a fresh start.

A mutant is killed if a test fails on it. If only a time limit stopped it, or no test runs it, it counts as alive.
"""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

KILLED_PERCENT_MIN: Final = 90
MUTANTS: Final = Path("mutants")
LOG: Final = Path(".data") / "mutation.log"
REASONS: Final = Path("docs") / "mutation.md"
MUTMUT: Final = (sys.executable, "-m", "mutmut")
PACKAGE: Final = "usage_tasks.domain."


def run() -> dict[str, str]:
    """Make every mutant, try each, and return its fate by its name."""
    shutil.rmtree(MUTANTS, ignore_errors=True)
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w") as log:
        ended = subprocess.run([*MUTMUT, "run"], stdout=log, stderr=subprocess.STDOUT, check=False)
    if ended.returncode:
        raise SystemExit(f"mutmut ended with {ended.returncode}: see {LOG}")
    listed = _ask("results", "--all", "true")
    return dict(line.strip().rsplit(": ", 1) for line in listed if line.strip())


def show_alive(fates: dict[str, str]) -> None:
    """Print every mutant that is alive, and whether its reason is written down."""
    reasons = REASONS.read_text()
    for name, fate in sorted(fates.items()):
        if fate != "killed":
            change = _change(name)
            known = "" if change in reasons else f"; not in {REASONS}"
            sys.stdout.write(f"{name.removeprefix(PACKAGE)} ({fate}{known})\n    {change}\n")


def show_figure(fates: dict[str, str]) -> bool:
    """Print the figure by module and for all. Return True if enough mutants are killed."""
    modules = [name.removeprefix(PACKAGE).partition(".")[0] for name in fates]
    made = Counter(modules)
    killed = Counter(module for module, fate in zip(modules, fates.values(), strict=True) if fate == "killed")
    for module in sorted(made):
        sys.stdout.write(f"{module:<14} {killed[module]:>5} of {made[module]:>5}\n")
    percent = 100 * killed.total() / max(1, made.total())
    sys.stdout.write(f"{'all':<14} {killed.total():>5} of {made.total():>5} killed: {percent:.1f} %\n")
    return percent >= KILLED_PERCENT_MIN


def main() -> int:
    """Return 1 if fewer than 90 % of the mutants are killed, or none was made."""
    sys.stdout.write(f"This takes some minutes; progress in {LOG}\n")
    sys.stdout.flush()
    fates = run()
    show_alive(fates)
    if show_figure(fates):
        return 0
    sys.stdout.write(f"Fewer than {KILLED_PERCENT_MIN} % are killed.\n")
    return 1


def _ask(*command: str) -> list[str]:
    return subprocess.run([*MUTMUT, *command], capture_output=True, text=True, check=True).stdout.splitlines()


def _change(name: str) -> str:
    diff = [line for line in _ask("show", name) if not line.startswith(("---", "+++"))]
    before, after = (" ".join(line[1:].strip() for line in diff if line.startswith(sign)) for sign in "-+")
    return f"`{before}` becomes `{after}`"


if __name__ == "__main__":
    raise SystemExit(main())
