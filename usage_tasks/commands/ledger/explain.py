"""`usage-tasks explain`: a cost, or an entry of the ledger, in words."""

import json
import sys
from typing import Annotated, Any

import typer

from usage_tasks.commands import OPERATOR
from usage_tasks.commands.values import At, utc_or_none
from usage_tasks.tasks.usage import explain as tasks


def explain(
    what: Annotated[str, typer.Argument(help="a session's id, or the key of an entry of --account")],
    account: Annotated[str | None, typer.Option(help="team:<id> or user:<id>")] = None,
    at: At = None,
    as_json: Annotated[bool, typer.Option("--json", help="the numbers too")] = False,
) -> None:
    """Explain what a session costs, or what an entry of the ledger is, in words."""
    asked = {"instance_id": what} if account is None else {"attribution_id": account, "entry_key": what}
    ask: Any = tasks.explain_usage
    answer = ask(actor=OPERATOR, at=utc_or_none(at), **asked)
    sys.stdout.write((json.dumps(answer, indent=2) if as_json else answer["text"]) + "\n")
