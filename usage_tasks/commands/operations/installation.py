"""`usage-tasks installation`: to which installation this database and this Redis belong."""

import sys

import typer
from redis.exceptions import RedisError

from usage_tasks.commands import WRONG
from usage_tasks.coordination.installation import adopt as adopt_redis
from usage_tasks.coordination.installation import check_configured, claim, find_holder
from usage_tasks.runtime import runtime
from usage_tasks.settings import without_password
from usage_tasks.storage.operations.installation import read_installation, renew_installation
from usage_tasks.wire.installations import is_same

installation = typer.Typer(
    help="The id that ties this database to its Redis; the Redis of another one is refused.", no_args_is_help=True
)


@installation.command()
def show() -> None:
    """Print the id of the database and the id in Redis; exit code 1 if they differ."""
    rt = runtime()
    with rt.transaction() as connection:
        ours = read_installation(connection)
    sys.stdout.write(f"{ours.installation_id}\n")
    held = find_holder(rt.redis)
    place = f"{without_password(rt.settings.redis_url)} (redis.prefix {rt.settings.redis.prefix})"
    sys.stderr.write(f"database: {ours} in {without_password(rt.settings.database_url)}\n")
    sys.stderr.write(f"redis: {held or 'none yet'} in {place}\n")
    if held is not None and not is_same(ours, held):
        raise typer.Exit(WRONG)


@installation.command()
def adopt() -> None:
    """Make the Redis this database's, whatever it belongs to: workers of another installation there end.

    For a database that replaces another one for good: restored from a dump, or moved to another server. Messages that
    wait in Redis are worked on in this database.
    """
    rt = runtime()
    with rt.transaction() as connection:
        ours = read_installation(connection)
    check_configured(rt.settings, ours)
    before = adopt_redis(rt.redis, ours)
    sys.stdout.write(f"redis: {ours}, before {before or 'none'}\n")


@installation.command()
def new() -> None:
    """Give the database a new id: for a copy that is to be an installation of its own, before a worker starts."""
    rt = runtime()
    with rt.transaction() as connection:
        ours = renew_installation(connection)
    sys.stdout.write(f"{ours.installation_id}\n")
    try:
        claim(rt.redis, ours, rt.settings)
    except RedisError as error:
        sys.stderr.write(f"redis is away, the first worker writes the id: {error}\n")
