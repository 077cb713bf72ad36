"""`usage-tasks zombies` and `release`: running sessions that accrue no further."""

import sys
from typing import Annotated

import typer

from usage_tasks.commands import OPERATOR
from usage_tasks.commands.json_lines import write_lines
from usage_tasks.commands.values import read_session
from usage_tasks.domain.accounts import parse_uuid, resolve
from usage_tasks.runtime import runtime
from usage_tasks.services.sessions.release_zombie import plan_release, release_session
from usage_tasks.storage.sessions import zombies as stored


def list_capped(limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100) -> None:
    """List the running sessions that accrue no further, longest first, as JSON lines."""
    rt = runtime()
    with rt.transaction() as connection:
        write_lines(connection, stored.list_zombies(connection, limit=limit))


def release_capped(
    instance_id: Annotated[str, typer.Argument(help="as `usage-tasks zombies` lists it, or the external id")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the cap that would be lifted")] = False,
) -> None:
    """Let a zombie accrue again by its facts; it is not capped again for the same reason."""
    rt = runtime()
    session = parse_uuid(resolve(read_session(instance_id), rt.name_namespace))
    with rt.transaction() as connection:
        if dry_run:
            zombie = plan_release(connection, session)
        else:
            zombie = release_session(connection, session, at=rt.now(), actor=OPERATOR)
    word = "would be released" if dry_run else "released"
    line = "it was not capped" if zombie is None else f"{word}: {zombie.cap_reason} at {zombie.capped_at}"
    sys.stdout.write(f"{line}\n")
