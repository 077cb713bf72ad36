"""`usage-tasks`: what operators type.

Exit codes: 0 done, 1 something does not hold, 2 wrong settings or usage, 75 try again later.
"""

import csv
import gc
import json
import os
import sys
import zlib
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic_core import to_json
from rich.console import Console
from rich.table import Table

from usage_tasks import bulk
from usage_tasks import health as probes
from usage_tasks.celery import app
from usage_tasks.commands.billing import add_to
from usage_tasks.commands.doctor import doctor
from usage_tasks.commands.exporter import exporter
from usage_tasks.commands.jobs import jobs
from usage_tasks.commands.poison import poison
from usage_tasks.commands.quarantine import quarantine
from usage_tasks.commands.report import report
from usage_tasks.commands.webhooks import webhooks
from usage_tasks.demo.command import DemoPlan, run_demo
from usage_tasks.domain.accounts import Actor, parse_attribution, parse_uuid
from usage_tasks.domain.credits import cents_to_credits
from usage_tasks.domain.durations import parse_duration
from usage_tasks.domain.errors import InvalidInputError, PermanentError, RetryableError
from usage_tasks.embedded.processes import StartError
from usage_tasks.runtime import runtime
from usage_tasks.services.ledger.grant_credits import list_grants
from usage_tasks.services.operations.verify_ledger import grace_of
from usage_tasks.services.operations.verify_ledger import verify as run_verify
from usage_tasks.services.sessions.release_zombie import plan_release, release_session
from usage_tasks.settings import SettingsError, load_settings
from usage_tasks.storage import migrate as migrations
from usage_tasks.storage.pricing import prices
from usage_tasks.storage.rows import as_json
from usage_tasks.storage.sessions import zombies
from usage_tasks.tasks.billing import invoices as invoicing_tasks
from usage_tasks.tasks.schemas import list_schemas
from usage_tasks.tasks.usage import explain as explain_tasks
from usage_tasks.tasks.usage import prices as price_tasks
from usage_tasks.telemetry.logs import configure_logging

_ACTOR: Final = Actor("service:usage-tasks")
_USAGE_ERROR: Final = 2
_TRY_AGAIN: Final = os.EX_TEMPFAIL
_SHOWN_MAX: Final = 100
"""How many refused rows of a file are shown; all of them are in quarantine."""
_GARBAGE_AFTER: Final = 50_000
"""An import makes many rows and no cycles: the collector, which looks after each 700 by itself, would look in vain."""

cli = typer.Typer(
    help="Usage billing on Celery.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
price_commands = typer.Typer(help="The price versions.", no_args_is_help=True)
cli.add_typer(price_commands, name="prices")
cli.add_typer(poison, name="poison")
cli.add_typer(quarantine, name="quarantine")
cli.add_typer(webhooks, name="webhooks")
cli.command("report")(report)
invoice_commands = typer.Typer(help="Stripe's invoices.", no_args_is_help=True)
cli.add_typer(invoice_commands, name="invoices")
add_to(cli)
cli.command("jobs")(jobs)
cli.command("exporter")(exporter)
cli.command("doctor")(doctor)
out = Console()


@cli.command()
def migrate() -> None:
    """Bring the database to this version: its schema, then the price list of the configuration file.

    A price that the file has changed holds from now on; what ran before keeps its price.
    """
    rt = runtime()
    migrations.upgrade(rt.settings.sqlalchemy_url)
    with rt.transaction() as connection:
        # First the lock, then the time: whatever is posted at the prices of before had stopped before these hold.
        prices.lock_prices(connection)
        added = prices.publish_prices(
            connection,
            rt.settings.credits_per_minute_by_workspace_class,
            rules=rt.settings.charge_rules,
            at=rt.now(),
            actor=_ACTOR,
        )
    out.print(f"the schema is up to date; {added} price versions are new")


@cli.command()
def settings() -> None:
    """Check the settings and print them, without secrets."""
    out.print_json(load_settings(os.environ).model_dump_json(by_alias=True, exclude={"database", "redis"}))


@cli.command()
def schemas() -> None:
    """Print the JSON Schema of every task's arguments, and of every message to the platform, by name."""
    app.loader.import_default_modules()
    out.print_json(json.dumps(list_schemas()))


@cli.command()
def health(
    kind: Annotated[str, typer.Argument(help="worker, beat, webhook or all")],
    live: Annotated[bool, typer.Option("--live", help="alive, rather than ready")] = False,
) -> None:
    """Probe the processes of this machine, by their heartbeats: exit code 0 healthy, 1 not, 2 wrong usage."""
    raise typer.Exit(probes.main([kind, *(["--live"] if live else [])]))


@cli.command()
def webhook() -> None:
    """Run the webhook receiver; `server` in the configuration file says where it listens."""
    server = load_settings(os.environ).server
    # A process of its own, which holds nothing of what these commands import.
    command = [sys.executable, "-m", "usage_tasks.webhook_app", server.address, str(server.port)]
    os.execvp(command[0], command)  # noqa: S606 - an argument list of our own, no shell


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
        grace = grace_of(rt.settings.controller_schedule) if at is None else timedelta(0)
        verdict = run_verify(connection, at=_utc(at) or rt.now(), grace=grace)
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


@price_commands.command("list")
def list_prices(workspace_class: Annotated[str | None, typer.Argument(help="default: every class")] = None) -> None:
    """List the price versions, each class's in rising order."""
    table = Table("class", "from", "credits a minute", "minimum, credits", "step, s", "origin", "actor")
    with runtime().transaction() as connection:
        for each in prices.list_versions(connection, workspace_class):
            version, rule = each.version, each.version.rule
            table.add_row(
                each.workspace_class,
                version.effective_from.isoformat(),
                f"{version.credits_per_minute:f}",
                str(cents_to_credits(rule.minimum_cents)),
                str(rule.rounding_seconds),
                each.origin,
                each.actor,
            )
    out.print(table)


@price_commands.command("add")
def add_price(
    workspace_class: str,
    credits_per_minute: Annotated[str, typer.Argument(help="an exact decimal, such as 0.5")],
    effective_from: Annotated[datetime, typer.Option("--from", help="ISO 8601, UTC; may be past or to come")],
    minimum: Annotated[str | None, typer.Option(help="least charge in credits; default: as before")] = None,
    step: Annotated[str | None, typer.Option(help="rounding step, such as 1m; default: as before")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="do it; else a dry run shows what would follow")] = False,
) -> None:
    """Add a price version; one from the past re-prices what is posted, by adjustments of the next ledger job."""
    seconds = None if step is None else _whole_seconds(step)
    add: Any = price_tasks.add_price_version  # called as over the wire, so that one validation serves both
    answer = add(
        workspace_class=workspace_class,
        actor=_ACTOR,
        credits_per_minute=credits_per_minute,
        effective_from=_utc(effective_from),
        minimum_credits=minimum,
        rounding_seconds=seconds,
        dry_run=not apply,
    )
    out.print_json(json.dumps(answer))


@invoice_commands.command("reconcile")
def reconcile_invoices(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show what would be booked")] = False,
) -> None:
    """Book every invoice of ours whose event never came. Exit code 2, with counts, if any cannot be."""
    reconcile: Any = invoicing_tasks.reconcile_invoices
    out.print_json(json.dumps(reconcile(dry_run=dry_run)))


@invoice_commands.command("finalize")
def finalize_invoice(
    attribution_id: Annotated[str, typer.Argument(help="team:<uuid> or user:<uuid>")],
    invoice_id: Annotated[str, typer.Argument(help="Stripe's id of the draft, in_...")],
) -> None:
    """Finalize an account's draft in Stripe now, its closing quantity first."""
    finalize: Any = invoicing_tasks.finalize_invoice
    answer = finalize(attribution_id=attribution_id, actor=_ACTOR, stripe_invoice_id=invoice_id)
    out.print_json(json.dumps(answer))


@invoice_commands.command("cancel-subscription")
def cancel_subscription(attribution_id: Annotated[str, typer.Argument(help="team:<uuid> or user:<uuid>")]) -> None:
    """End an account's subscription in Stripe now, with a last invoice; it leaves stripe once that is booked."""
    cancel: Any = invoicing_tasks.cancel_subscription
    out.print_json(json.dumps(cancel(attribution_id=attribution_id, actor=_ACTOR)))


@cli.command("explain")
def explain(
    what: Annotated[str, typer.Argument(help="a session's id, or the key of an entry of --account")],
    account: Annotated[str | None, typer.Option(help="team:<uuid> or user:<uuid>")] = None,
    at: Annotated[datetime | None, typer.Option(help="ISO 8601, UTC; default: now")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the numbers too")] = False,
) -> None:
    """Explain what a session costs, or what an entry of the ledger is, in words."""
    asked = {"instance_id": what} if account is None else {"attribution_id": account, "entry_key": what}
    ask: Any = explain_tasks.explain_usage
    answer = ask(actor=_ACTOR, at=_utc(at), **asked)
    sys.stdout.write((json.dumps(answer, indent=2) if as_json else answer["text"]) + "\n")


@cli.command("import")
def import_reports(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a CSV file, or a CSV.gz, with a header")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="count what would become of the rows, write nothing")
    ] = False,
) -> None:
    """Take up a file of reports of sessions, fast; safe to run again. Exit code 1 if rows were quarantined."""
    gc.set_threshold(_GARBAGE_AFTER)
    rt = runtime()
    counts = {"inserted": 0, "updated": 0, "unchanged": 0, "quarantined": 0}
    try:
        take_up = bulk.rehearse_file if dry_run else bulk.import_file
        for done in take_up(rt, file, at=rt.now(), actor=_ACTOR):
            for each in done.rejections[: max(0, _SHOWN_MAX - counts["quarantined"])]:
                sys.stderr.write(f"line {each.index}: {each.field}: {each.reason}\n")
            for what in ("inserted", "updated", "unchanged"):
                counts[what] += getattr(done.merged, what)
            counts["quarantined"] += len(done.rejections)
    except (InvalidInputError, RetryableError, csv.Error, OSError, EOFError, zlib.error) as error:
        told = "nothing is taken up by a dry run" if dry_run else f"taken up before: {json.dumps(counts)}"
        sys.stderr.write(f"{file}: {error}; {told}\n")
        raise typer.Exit(_TRY_AGAIN if isinstance(error, RetryableError) else _USAGE_ERROR) from error
    sys.stdout.write(json.dumps({"dry_run": counts} if dry_run else counts) + "\n")
    raise typer.Exit(1 if counts["quarantined"] else 0)


@cli.command("zombies")
def list_capped(limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100) -> None:
    """List the running sessions that accrue no further, longest first, as JSON lines."""
    rt = runtime()
    with rt.transaction() as connection:
        for zombie in zombies.list_zombies(connection, limit=limit):
            sys.stdout.write(as_json(asdict(zombie)) + "\n")


@cli.command("release")
def release_capped(
    instance_id: Annotated[str, typer.Argument(help="as `usage-tasks zombies` lists it")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the cap that would be lifted")] = False,
) -> None:
    """Let a zombie accrue again by its facts; it is not capped again for the same reason."""
    rt = runtime()
    try:
        session = parse_uuid(instance_id)
    except ValueError:
        raise typer.BadParameter(f"{instance_id!r} is not allowed: a UUID", param_hint="INSTANCE_ID") from None
    with rt.transaction() as connection:
        if dry_run:
            zombie = plan_release(connection, session)
        else:
            zombie = release_session(connection, session, at=rt.now(), actor=_ACTOR)
    word = "would be released" if dry_run else "released"
    out.print("it was not capped" if zombie is None else f"{word}: {zombie.cap_reason} at {zombie.capped_at}")


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
    plan = DemoPlan(directory=data, tick=step, keep=keep, replays=replays, kill_worker=kill_worker, json_file=json_file)
    raise typer.Exit(run_demo(plan, out))


def _whole_seconds(step: str) -> int:
    """Read a rounding step; a BadParameter names one that is no whole seconds."""
    try:
        duration = parse_duration(step)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--step") from error
    if duration % timedelta(seconds=1):
        raise typer.BadParameter(f"{step!r} is not allowed: whole seconds", param_hint="--step")
    return duration // timedelta(seconds=1)


def _utc(moment: datetime | None) -> datetime | None:
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def main() -> None:
    """Run the command line; a wrong setting or value is one message and exit code 2, a busy world one and 75."""
    configure_logging(os.environ.get("USAGE_LOG_LEVEL", "WARNING"))  # to standard error: the answer stands alone
    try:
        cli()
    except (SettingsError, StartError, PermanentError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_USAGE_ERROR)
    except RetryableError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_TRY_AGAIN)


if __name__ == "__main__":
    main()
