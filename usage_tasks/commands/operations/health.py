"""`usage-tasks health`: the probe of usage_tasks/health.py, with its options in the command's help."""

from typing import Annotated

import typer

from usage_tasks import health as probes


def health(
    kind: Annotated[str, typer.Argument(help="worker, beat, webhook or all")],
    live: Annotated[bool, typer.Option("--live", help="alive, rather than ready")] = False,
) -> None:
    """Probe the processes of this machine, by their heartbeats: exit code 0 healthy, 1 not, 2 wrong usage."""
    raise typer.Exit(probes.main([kind, *(["--live"] if live else [])]))
