"""`usage-tasks names`: the external ids and display names of accounts and sessions."""

import json
import sys
from typing import Annotated, Any

import typer

from usage_tasks.commands import OPERATOR
from usage_tasks.runtime import runtime
from usage_tasks.tasks import directory as tasks

names = typer.Typer(help="The external ids and display names of accounts and sessions.", no_args_is_help=True)

What = Annotated[str, typer.Argument(help="team:<id>, user:<id> or session:<id>; each id a UUID or an external id")]


@names.command()
def show(what: What) -> None:
    """Print the id of an account or a session, and its names, as JSON."""
    ask: Any = tasks.get_name
    _print(ask(actor=OPERATOR, **_subject(what)))


@names.command("set")
def set_name(
    what: What,
    name: Annotated[str, typer.Argument(help="the display name; empty to take it away")],
) -> None:
    """Give an account or a session a display name; no id changes."""
    ask: Any = tasks.set_name
    _print(ask(actor=OPERATOR, display_name=name or None, **_subject(what)))


@names.command()
def namespace() -> None:
    """Print the namespace: an external id stands for uuid5(namespace, "team:<id>"), or user: or session:."""
    sys.stdout.write(f"{runtime().name_namespace()}\n")


def _subject(what: str) -> dict[str, str]:
    kind, _, entity = what.partition(":")
    return {"instance_id": entity} if kind == "session" else {"attribution_id": what}


def _print(answer: object) -> None:
    sys.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
