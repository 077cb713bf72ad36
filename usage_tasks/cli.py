"""`usage-tasks`: what operators type. Exit codes: 0 done, 1 something does not hold, 2 wrong settings or usage."""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic_core import to_json
from rich.console import Console
from rich.table import Table

from usage_tasks.celery import app
from usage_tasks.demo.command import Plan, run_demo
from usage_tasks.domain.accounts import Actor, parse_attribution
from usage_tasks.domain.durations import parse_duration
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.embedded.processes import StartError
from usage_tasks.runtime import runtime
from usage_tasks.services.grant import list_grants
from usage_tasks.services.verify import GRACE
from usage_tasks.services.verify import verify as run_verify
from usage_tasks.settings import SettingsError, load_settings
from usage_tasks.storage import migrate as migrations
from usage_tasks.storage import prices, quarantine
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS
from usage_tasks.webhook_app import serve

_ACTOR: Final = Actor("service:usage-tasks")
_USAGE_ERROR: Final = 2

cli = typer.Typer(
    help="Usage billing on Celery.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
out = Console()


@cli.command()
def migrate() -> None:
    """Bring the database to this version: its schema, then the price list of the configuration file.

    A price that differs from the latest one holds from now on; what ran before keeps its price.
    """
    rt = runtime()
    migrations.upgrade(rt.settings.sqlalchemy_url)
    with rt.transaction() as connection:
        added = prices.publish_prices(
            connection, rt.settings.credits_per_minute_by_workspace_class, at=rt.now(), actor=_ACTOR
        )
    out.print(f"the schema is up to date; {added} price versions are new")


@cli.command()
def settings() -> None:
    """Check the settings and print them, without secrets."""
    out.print_json(load_settings(os.environ).model_dump_json(by_alias=True, exclude={"database", "redis"}))


@cli.command()
def schemas() -> None:
    """Print the JSON Schema of every task's arguments, by the task's name."""
    app.loader.import_default_modules()
    out.print_json(json.dumps(ARGUMENT_SCHEMAS))


@cli.command()
def webhook() -> None:
    """Run the webhook receiver; `server` in the configuration file says where it listens."""
    server = load_settings(os.environ).server
    serve(server.address, server.port)


@cli.command()
def flower(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5555,
    address: Annotated[str, typer.Option()] = "127.0.0.1",
) -> None:
    """Run Flower, read-only and with a password: FLOWER_BASIC_AUTH=user:password must be set.

    Its /metrics and /healthcheck stay open to whoever reaches the address: keep it private.
    """
    credentials = os.environ.get("FLOWER_BASIC_AUTH", "")
    if not all(credentials.partition(":")[::2]):
        sys.stderr.write("FLOWER_BASIC_AUTH: not set; it must be user:password\n")
        raise typer.Exit(_USAGE_ERROR)
    arguments = [f"--address={address}", f"--port={port}", "--read-only"]
    command = [sys.executable, "-m", "celery", "-A", "usage_tasks", "flower", *arguments]
    # The password stays in the environment, which Flower reads by this name: an argument shows in the process list.
    os.execvp(command[0], command)  # noqa: S606 - an argument list of our own, no shell


@cli.command()
def verify(
    at: Annotated[datetime | None, typer.Option(help="ISO 8601, UTC; default: now")] = None,
) -> None:
    """Check every invariant of the ledger; exit code 1 if one is broken."""
    rt = runtime()
    with rt.transaction() as connection:
        verdict = run_verify(connection, at=_utc(at) or rt.now(), grace=GRACE if at is None else timedelta(0))
    table = Table("check", "offenders", "such as")
    for finding in verdict.findings:
        table.add_row(finding.check, str(finding.offenders), ", ".join(finding.sample))
    out.print(table)
    raise typer.Exit(0 if verdict.clean else 1)


@cli.command("grants")
def show_grants(
    attribution: Annotated[str, typer.Argument(help="team:<uuid> or user:<uuid>")],
    at: Annotated[datetime | None, typer.Option(help="ISO 8601, UTC; default: now")] = None,
) -> None:
    """List what was granted to an account, newest first, with each burn and lapse, as JSON lines."""
    rt = runtime()
    try:
        account = parse_attribution(attribution)
    except InvalidInputError as error:
        raise typer.BadParameter(error.allowed, param_hint="ATTRIBUTION") from error
    with rt.transaction() as connection:
        for each in list_grants(connection, account, at=_utc(at) or rt.now()):
            sys.stdout.write(to_json(each).decode() + "\n")


@cli.command("quarantine")
def list_quarantine(limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100) -> None:
    """List the reports of sessions that were refused, newest first, as JSON lines."""
    rt = runtime()
    with rt.transaction() as connection:
        for row in quarantine.list_quarantined(connection, limit=limit):
            line = {
                "field": row.field,
                "reason": row.reason,
                "times_seen": row.times_seen,
                "first_seen_at": row.first_seen_at.isoformat(),
                "last_seen_at": row.last_seen_at.isoformat(),
                "actor": row.actor,
                "report": json.loads(row.report),
            }
            sys.stdout.write(json.dumps(line) + "\n")


@cli.command()
def demo(
    tick: Annotated[str, typer.Option(help="how far apart the ledger ticks are, such as 24h or 6h")] = "24h",
    data: Annotated[Path | None, typer.Option(help="keep the data here; default: a directory that is removed")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave everything running at the end, until Ctrl-C")] = False,
    replays: Annotated[int, typer.Option(min=1, max=10, help="the second must add nothing")] = 1,
    kill_worker: Annotated[bool, typer.Option("--kill-worker", help="SIGKILL a worker in the middle")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write what came out to this file too")] = None,
) -> None:
    """Replay a real cluster's quarter through a whole installation, and compare what came out."""
    step = parse_duration(tick)
    if not timedelta(minutes=10) <= step <= timedelta(days=28):
        raise typer.BadParameter(f"{tick!r} is not allowed: from 10m to 672h", param_hint="--tick")
    plan = Plan(directory=data, tick=step, keep=keep, replays=replays, kill_worker=kill_worker, json_file=json_file)
    raise typer.Exit(run_demo(plan, out))


def _utc(moment: datetime | None) -> datetime | None:
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def main() -> None:
    """Run the command line; a wrong setting is one message and exit code 2."""
    try:
        cli()
    except (SettingsError, StartError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_USAGE_ERROR)


if __name__ == "__main__":
    main()
