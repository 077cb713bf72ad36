"""`usage-tasks webhooks`: the events of the inbox, listed, shown, replayed, dropped."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from usage_tasks.commands import OPERATOR, WRONG
from usage_tasks.commands.tables import show_table
from usage_tasks.runtime import runtime
from usage_tasks.storage.inbox import review as stored
from usage_tasks.storage.inbox.review import EventRow
from usage_tasks.storage.rows import as_json
from usage_tasks.tasks.stripe import review as tasks

webhooks = typer.Typer(help="Stripe's events, as they came and what became of them.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(help="as `usage-tasks webhooks list` shows them")]
AllParked = Annotated[bool, typer.Option("--all", help="every event that is parked")]
Apply = Annotated[bool, typer.Option("--apply", help="do it; else a dry run shows what would follow")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table")]
_TWINS_MAX: Final = 100


class ListedState(StrEnum):
    """The state of the events that are listed."""

    PENDING = "pending"
    APPLIED = "applied"
    PARKED = "parked"
    DROPPED = "dropped"


@webhooks.command("list")
def list_events(
    state: Annotated[ListedState | None, typer.Option(help="default: parked; --every for all")] = ListedState.PARKED,
    every: Annotated[bool, typer.Option("--every", help="events of every state")] = False,
    kind: Annotated[str | None, typer.Option("--type", help="only events of this type")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    in_json: AsJson = False,
) -> None:
    """List events, newest first: by default the parked ones."""
    with runtime().transaction() as connection:
        rows = stored.list_events(
            connection, state=None if every or state is None else state.value, kind=kind, limit=limit
        )
    if in_json:
        for row in rows:
            sys.stdout.write(as_json(asdict(row)) + "\n")
        return
    _show_table(rows)


def _show_table(rows: Sequence[EventRow]) -> None:
    shown = (
        (
            row.event_id,
            row.type,
            row.object_id or "",
            row.created_at.isoformat(sep=" ", timespec="seconds"),
            row.state,
            str(row.attempts),
            row.outcome or "",
        )
        for row in rows
    )
    show_table(("event", "type", "object", "made", "state", "tries", "outcome"), shown)


@webhooks.command("show")
def show_event(event_id: Annotated[str, typer.Argument(help="evt_...")], in_json: AsJson = False) -> None:
    """Show one event, and others of the same fact; exit code 1 if there is none."""
    with runtime().transaction() as connection:
        row = stored.find_event(connection, event_id)
        twins = [] if row is None else stored.list_twins(connection, row, limit=_TWINS_MAX)
    if row is None:
        sys.stderr.write(f"{event_id}: no such event in the inbox\n")
        raise typer.Exit(WRONG)
    shown = asdict(row) | {"twins": list(twins)}
    if in_json:
        sys.stdout.write(as_json(shown) + "\n")
        return
    fields = json.loads(as_json(shown)).items()
    rows = (
        (name, ", ".join(value) if isinstance(value, list) else str("" if value is None else value))
        for name, value in fields
    )
    show_table(("field", "value"), rows, headed=False)


@webhooks.command("replay")
def replay(ids: Ids = None, all_parked: AllParked = False, apply: Apply = False) -> None:
    """Apply events again; their effects are never doubled."""
    ask: Any = tasks.replay_events
    answer = ask(actor=OPERATOR, ids=ids or None, all_parked=all_parked, dry_run=not apply)
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")


@webhooks.command("drop")
def drop(
    reason: Annotated[str, typer.Option(help="why nobody needs them; it is noted")],
    ids: Ids = None,
    all_parked: AllParked = False,
    apply: Apply = False,
) -> None:
    """Give up events that are parked or pending: they are never applied, and kept as they are."""
    ask: Any = tasks.drop_events
    answer = ask(actor=OPERATOR, reason=reason, ids=ids or None, all_parked=all_parked, dry_run=not apply)
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")
