"""`usage-tasks quarantine`: reports that were refused, listed, released, dropped."""

import json
import sys
from typing import Annotated, Any

import typer

from usage_tasks.commands import OPERATOR, WRONG
from usage_tasks.runtime import runtime
from usage_tasks.storage.sessions import quarantine as stored
from usage_tasks.tasks.usage import quarantine as tasks

quarantine = typer.Typer(help="The reports of sessions that were refused.", invoke_without_command=True)

Ids = Annotated[list[str] | None, typer.Argument(help="as `usage-tasks quarantine` lists them")]
FieldName = Annotated[str | None, typer.Option("--field", help="only those refused for this field")]
Reason = Annotated[str | None, typer.Option(help="only those with this text in the reason")]
Everything = Annotated[bool, typer.Option("--all", help="every one that waits")]
Apply = Annotated[bool, typer.Option("--apply", help="do it; else a dry run shows what would follow")]


@quarantine.callback()
def list_quarantined(context: typer.Context, limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100) -> None:
    """List the reports of sessions that were refused, newest first, as JSON lines."""
    if context.invoked_subcommand is not None:
        return
    with runtime().transaction() as connection:
        for row in stored.list_quarantined(connection, limit=limit):
            line = {
                "id": row.digest,
                "field": row.field,
                "reason": row.reason,
                "times_seen": row.times_seen,
                "first_seen_at": row.first_seen_at.isoformat(),
                "last_seen_at": row.last_seen_at.isoformat(),
                "sent_at": row.sent_at.isoformat(),
                "snapshot_source": row.snapshot_source,
                "actor": row.actor,
                "report": json.loads(row.report),
            }
            sys.stdout.write(json.dumps(line) + "\n")


@quarantine.command("release")
def release(
    ids: Ids = None,
    field: FieldName = None,
    reason: Reason = None,
    everything: Everything = False,
    apply: Apply = False,
) -> None:
    """Take refused reports up as if they came now; exit code 1 where some are still refused, which stay."""
    ask: Any = tasks.release_quarantined
    answer = ask(actor=OPERATOR, ids=ids or None, field=field, reason=reason, everything=everything, dry_run=not apply)
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    raise typer.Exit(WRONG if answer.get("dry_run", answer)["still_refused"] else 0)


@quarantine.command("drop")
def drop(
    ids: Ids = None,
    field: FieldName = None,
    reason: Reason = None,
    everything: Everything = False,
    apply: Apply = False,
) -> None:
    """Remove refused reports for good. Their facts about sessions are lost."""
    ask: Any = tasks.drop_quarantined
    answer = ask(actor=OPERATOR, ids=ids or None, field=field, reason=reason, everything=everything, dry_run=not apply)
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")
