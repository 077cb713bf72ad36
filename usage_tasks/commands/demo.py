"""`usage-tasks demo`: a whole installation, replayed; its code is in a checkout and in `usage-tasks-testing` only."""

import sys
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from usage_tasks.commands import USAGE_ERROR
from usage_tasks.domain.durations import parse_duration
from usage_tasks.domain.errors import show


def demo(
    tick: Annotated[str, typer.Option(help="how far apart the ledger ticks are, such as 24h or 6h")] = "24h",
    data: Annotated[Path | None, typer.Option(help="keep the data here; default: a directory that is removed")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave everything running at the end, until Ctrl-C")] = False,
    replays: Annotated[int, typer.Option(min=1, max=10, help="the second must add nothing")] = 1,
    kill_worker: Annotated[bool, typer.Option("--kill-worker", help="SIGKILL a worker in the middle")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write what came out to this file too")] = None,
) -> None:
    """Replay a real cluster's quarter through a whole installation, and compare what came out."""
    if find_spec("usage_tasks.demo") is None:
        sys.stderr.write(
            "demo: not in this installation; install usage-tasks-testing, or run `make demo` in a checkout\n"
        )
        raise typer.Exit(USAGE_ERROR)
    from usage_tasks.demo.command import DemoPlan, run_demo  # noqa: PLC0415 - it may not be there
    from usage_tasks.demo.installation import ForeignDatabaseError  # noqa: PLC0415 - as above
    from usage_tasks.embedded.processes import StartError  # noqa: PLC0415 - as above

    step = parse_duration(tick)
    if not timedelta(minutes=10) <= step <= timedelta(days=28):
        raise typer.BadParameter(f"must be from 10m to 672h (got {show(tick)})", param_hint="--tick")
    plan = DemoPlan(directory=data, tick=step, keep=keep, replays=replays, kill_worker=kill_worker, json_file=json_file)
    try:
        code = run_demo(plan, Console())
    except (ForeignDatabaseError, StartError) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(USAGE_ERROR) from error
    raise typer.Exit(code)
