"""`python -m tests.mutation`: how many small changes of the rules their tests notice, from a fresh start.

Killed is what a test failed on. A change that only a time limit stopped, or that no test runs, counts as alive.
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
MUTMUT: Final = (sys.executable, "-m", "mutmut")
PACKAGE: Final = "usage_tasks.domain."


def run() -> dict[str, str]:
    """Make every mutant, try each, and answer its fate by its name."""
    shutil.rmtree(MUTANTS, ignore_errors=True)
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w") as log:
        ended = subprocess.run([*MUTMUT, "run"], stdout=log, stderr=subprocess.STDOUT, check=False)
    if ended.returncode:
        raise SystemExit(f"mutmut ended with {ended.returncode}: see {LOG}")
    listed = subprocess.run([*MUTMUT, "results", "--all", "true"], capture_output=True, text=True, check=True)
    return dict(line.strip().rsplit(": ", 1) for line in listed.stdout.splitlines() if line.strip())


def show(fates: dict[str, str]) -> bool:
    """Print the figure by module and who is alive; tell whether enough are killed."""
    made: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    for name, fate in fates.items():
        module = name.removeprefix(PACKAGE).partition(".")[0]
        made[module] += 1
        killed[module] += fate == "killed"
    for name, fate in sorted(fates.items()):
        if fate != "killed":
            sys.stdout.write(f"{fate}: {name}\n")
    for module in sorted(made):
        sys.stdout.write(f"{module:<16}{killed[module]:>5} of {made[module]:>5}\n")
    total = made.total()
    sys.stdout.write(
        f"{'all':<16}{killed.total():>5} of {total:>5} killed, {100 * killed.total() / max(total, 1):.1f} %\n"
    )
    return total > 0 and 100 * killed.total() >= KILLED_PERCENT_MIN * total


def main() -> int:
    """Answer 1 where fewer than 90 % of the mutants are killed, or none was made."""
    sys.stdout.write(f"Some minutes; progress in {LOG}\n")
    sys.stdout.flush()
    if show(run()):
        return 0
    sys.stdout.write(f"Fewer than {KILLED_PERCENT_MIN} % are killed.\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
