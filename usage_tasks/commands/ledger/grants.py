"""`usage-tasks grants`: the credits that an account was given."""

import sys
from typing import Annotated

import typer
from pydantic_core import to_json

from usage_tasks.commands.values import At, read_account, utc_or_none
from usage_tasks.domain.accounts import parse_attribution, resolve
from usage_tasks.runtime import runtime
from usage_tasks.services.ledger.grant_credits import list_grants


def grants(
    attribution: Annotated[str, typer.Argument(help="team:<id> or user:<id>")],
    at: At = None,
) -> None:
    """List what was granted to an account, newest first, with each burn and lapse, as JSON lines."""
    rt = runtime()
    account = parse_attribution(resolve(read_account(attribution), rt.name_namespace))
    with rt.transaction() as connection:
        for each in list_grants(connection, account, at=utc_or_none(at) or rt.now()):
            sys.stdout.write(to_json(each).decode() + "\n")
