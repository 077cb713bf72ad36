"""`usage-tasks demo`: start, replay, compare, stop."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from usage_tasks.demo import report
from usage_tasks.demo.installation import Installation, running_installation
from usage_tasks.demo.quarter import Session, load_quarter
from usage_tasks.demo.replay import BEGIN, instants, replay, upgrades
from usage_tasks.embedded.processes import scratch_directory

_MIDDLE: Final = datetime.fromisoformat("2013-03-01T00:00:00Z")


class DoesNotHoldError(Exception):
    """Something that must hold does not. A temporary directory stays then, for its logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """The plan of a run of the demo. Without a directory the data is in a temporary one."""

    directory: Path | None
    tick: timedelta
    keep: bool
    replays: int
    kill_worker: bool
    json_file: Path | None


def run_demo(plan: DemoPlan, console: Console) -> int:
    """Run the whole demo; return 0 only if everything that must hold does."""
    # An orderly end on SIGTERM too: what was started ends with its block.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it as ignored
    try:
        _run(plan, console)
    except DoesNotHoldError:
        return 1
    return 0


def _run(plan: DemoPlan, console: Console) -> None:
    sessions = load_quarter()
    with ExitStack() as stack:
        place = plan.directory or stack.enter_context(scratch_directory("usage-demo-"))
        started = time.perf_counter()
        installation = stack.enter_context(
            running_installation(place.absolute(), os.environ, clock_start=BEGIN, console=console)
        )
        console.print(f"everything is up after {time.perf_counter() - started:.1f} s")
        problems = _replay_and_compare(installation, sessions, plan, console)
        for problem in problems:
            console.print(f"[red]does not hold:[/] {problem}")
        console.print("[bold red]FAILED[/]" if problems else "[bold green]all of it holds[/]")
        if plan.keep:
            for line in report.kept(installation):
                console.print(line, soft_wrap=True, highlight=False, markup=False)
            threading.Event().wait()
        if problems:
            raise DoesNotHoldError


def _replay_and_compare(
    installation: Installation, sessions: Sequence[Session], plan: DemoPlan, console: Console
) -> list[str]:
    """Replay as often as planned; return the problems, a later replay that adds an entry included."""
    problems: list[str] = []
    outcomes: list[report.DemoOutcome] = []
    for number in range(1, plan.replays + 1):
        killing = plan.kill_worker and number == 1
        _replay_once(installation, sessions, tick=plan.tick, kill_worker=killing, console=console)
        outcome = report.collect(installation)
        report.show(outcome, installation, console)
        problems += outcome.problems(sessions)
        if outcomes:
            added = outcome.counts["entries"] - outcomes[-1].counts["entries"]
            console.print(f"replay {number} added {added} ledger entries")
            problems += [f"replay {number} added {added} ledger entries"] if added else []
        outcomes.append(outcome)
    if plan.json_file is not None:
        plan.json_file.write_text(json.dumps([outcome.as_json() for outcome in outcomes], indent=2))
    return problems


def _replay_once(
    installation: Installation, sessions: Sequence[Session], *, tick: timedelta, kill_worker: bool, console: Console
) -> None:
    """Replay the quarter under a progress bar; if output is no terminal, with a line a month."""
    steps = len(instants(upgrades(sessions), tick))
    month, started = 0, time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[sessions]} sessions"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("replaying", total=steps, sessions=0)

        def kill() -> None:
            installation.kill_worker("usage", signal.SIGKILL)
            progress.console.print("killed the usage worker with SIGKILL while it worked, and started it again")

        walk = replay(installation, sessions, tick=tick, interrupt_at=_MIDDLE if kill_worker else None, interrupt=kill)
        for instant, totals in walk:
            recorded = totals.sums.get("record inserted", 0)
            progress.update(bar, advance=1, description=f"{instant:%Y-%m-%d %H:%M}", sessions=recorded)
            if not console.is_terminal and instant.month != month:
                month = instant.month
                console.print(f"  {instant:%Y-%m-%d}: {recorded} sessions recorded")
    console.print(f"replayed {len(sessions)} sessions in {steps} steps in {time.perf_counter() - started:.1f} s")
