"""`usage-tasks prices`: the price versions, listed and added."""

import json
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console

from usage_tasks.commands import OPERATOR
from usage_tasks.commands.tables import show_table
from usage_tasks.commands.values import utc
from usage_tasks.domain.credits import cents_to_credits
from usage_tasks.domain.durations import parse_duration
from usage_tasks.domain.errors import show
from usage_tasks.domain.prices import State, price_key, split_price_key
from usage_tasks.runtime import runtime
from usage_tasks.storage.pricing import prices as stored
from usage_tasks.tasks.usage import prices as tasks

prices = typer.Typer(help="The price versions.", no_args_is_help=True)


@prices.command("list")
def list_prices(workspace_class: Annotated[str | None, typer.Argument(help="default: every class")] = None) -> None:
    """List the price versions, those of each class and state in rising order."""
    columns = ("class", "from", "credits a minute", "minimum, credits", "step, s", "origin", "actor", "state")
    rows = []
    keys = None if workspace_class is None else {price_key(workspace_class, state) for state in State}
    with runtime().transaction() as connection:
        for each in stored.list_versions(connection):
            if keys is not None and each.price_key not in keys:
                continue
            version, rule = each.version, each.version.rule
            priced_class, state = split_price_key(each.price_key)
            rows.append(
                (
                    priced_class,
                    version.effective_from.isoformat(),
                    f"{version.credits_per_minute:f}",
                    str(cents_to_credits(rule.minimum_cents)),
                    str(rule.rounding_seconds),
                    each.origin,
                    each.actor,
                    state,
                )
            )
    show_table(columns, rows)


@prices.command("add")
def add_price(
    workspace_class: str,
    credits_per_minute: Annotated[str, typer.Argument(help="an exact decimal, such as 0.5")],
    effective_from: Annotated[datetime, typer.Option("--from", help="ISO 8601, UTC; may be past or to come")],
    minimum: Annotated[str | None, typer.Option(help="least charge in credits; default: as before")] = None,
    step: Annotated[str | None, typer.Option(help="rounding step, such as 1m; default: as before")] = None,
    state: Annotated[State, typer.Option(help="the state that it prices")] = State.RUNNING,
    apply: Annotated[bool, typer.Option("--apply", help="do it; else a dry run shows what would follow")] = False,
) -> None:
    """Add a price version; one from the past re-prices what is posted, by adjustments of the next ledger job."""
    seconds = None if step is None else _whole_seconds(step)
    add: Any = tasks.add_price_version  # called as over the wire, so that one validation serves both
    answer = add(
        workspace_class=workspace_class,
        actor=OPERATOR,
        credits_per_minute=credits_per_minute,
        effective_from=utc(effective_from),
        minimum_credits=minimum,
        rounding_seconds=seconds,
        state=state,
        dry_run=not apply,
    )
    Console().print_json(json.dumps(answer))


def _whole_seconds(step: str) -> int:
    """Return a rounding step. Raises BadParameter if it is not whole seconds."""
    try:
        duration = parse_duration(step)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--step") from error
    if duration % timedelta(seconds=1):
        raise typer.BadParameter(f"must be whole seconds (got {show(step)})", param_hint="--step")
    return duration // timedelta(seconds=1)
