"""`python -m tests.benchmarks.beside CHECKOUT`: this version beside another one, in turn, on databases of their own.

Processor time is compared, of the process and of its database server's processes: other work on the machine counts less
so. A third database has sessions of which each fifth changes twice; it is compared with the other version, too.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psycopg

from tests.benchmarks import version
from tests.benchmarks.measure import ROUNDS, Figure, median, show
from usage_tasks.embedded.servers import running_servers

RESULTS: Final = Path(".data") / "bench-beside.json"
WORK: Final = ("posting", "tick", "balance", "recording", "importing")
HERE: Final = Path(__file__).parents[2]
SETTINGS: Final = {
    "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"small": 0.1, "medium": 0.2, "large": 0.5, "xlarge": 1}',
    "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 1000000, "forUsers": 1000000}',
}


class Side:
    """A version at work: a process in its checkout."""

    def __init__(self, checkout: Path, environment: Mapping[str, str], *options: str) -> None:
        script = Path(version.__file__)
        path = os.pathsep.join([str(checkout), str(checkout / "client")])
        self._process = subprocess.Popen(
            [sys.executable, str(script), *options],
            cwd=checkout,
            env={**os.environ, **environment, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def do(self, what: str, number: int = 0) -> float:
        """Do some work; return the seconds of processor time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([what, number]) + "\n")
        self._process.stdin.flush()
        return float(json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        """End the process."""
        self._process.communicate()


def main() -> int:
    """Print the table; return 1 if a bound does not hold."""
    (other,) = sys.argv[1:]
    RESULTS.parent.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="usage-bench-") as directory,
        running_servers(Path(directory), os.environ) as servers,
    ):
        sides = {}
        for number, (name, checkout, options) in enumerate(
            [("other", Path(other).resolve(), ()), ("this", HERE, ()), ("changing", HERE, ("changing",))]
        ):
            with psycopg.connect(servers.database_url, autocommit=True) as connection:
                connection.execute(f'CREATE DATABASE "bench_{name}"')
            environment = {
                "DATABASE_URL": f"{servers.database_url.rpartition('/')[0]}/bench_{name}",
                "REDIS_URL": f"{servers.redis_url.rpartition('/')[0]}/{number + 2}",
                **SETTINGS,
            }
            sides[name] = Side(checkout, environment, *options)
            sides[name].do("setup")
        rounds: dict[tuple[str, str], list[float]] = {(what, name): [] for what in WORK for name in sides}
        for number in range(ROUNDS + 1):  # the first warms up
            for what in WORK:
                for name in sides if number % 2 else reversed(sides):
                    took = sides[name].do(what, number)
                    if number:
                        rounds[what, name].append(took)
            sys.stderr.write(f"round {number}\n")
        for side in sides.values():
            side.end()
    figures = [
        _figure(what, name, rounds[what, name], rounds[what, "other"], at_most)
        for what in WORK
        for name, at_most in (("this", 1.05), ("changing", 1.5))
    ]
    show(figures, RESULTS)
    return 0 if all(figure.holds for figure in figures) else 1


def _figure(what: str, name: str, rounds: list[float], floor: list[float], at_most: float) -> Figure:
    ratio = median(rounds) / median(floor)
    return Figure(
        name=f"{what}, {'single segments' if name == 'this' else 'a fifth in three segments'}",
        value=median(rounds),
        unit="CPU s",
        beside="the other version",
        beside_value=median(floor),
        bound=f"at most {at_most:g}x: {ratio:.2f}x",
        holds=ratio <= at_most,
        rounds=rounds,
    )


if __name__ == "__main__":
    sys.exit(main())
