"""`usage-tasks migrate`: the schema, then the price list of the configuration file."""

import sys

from redis.exceptions import RedisError
from rich.console import Console

from usage_tasks.commands import OPERATOR
from usage_tasks.coordination.installation import check_configured, check_server, claim
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.operations.job_standings import note_schedules
from usage_tasks.storage import migrate as migrations
from usage_tasks.storage.operations.installation import read_installation
from usage_tasks.storage.pricing import prices
from usage_tasks.wire.installations import InstallationIdentity


def migrate() -> None:
    """Bring the database to this version: its schema, then the price list of the configuration file.

    A price that the file has changed holds from now on; what ran before keeps its price. Nobody waits long for a
    migration: it leaves the queue of a lock after a second, and tries again for 5 minutes. Exit code 75: run it again.

    The first run makes the id of the installation; each writes it to Redis if it is missing there. Exit code 2 if the
    Redis is another installation's: the database is migrated all the same.
    """
    rt = runtime()
    schema = migrations.upgrade(rt.settings.sqlalchemy_url)
    with rt.transaction() as connection:
        # First the lock, then the time: sessions posted at the old prices had stopped before the new prices hold.
        prices.lock_prices(connection)
        added = prices.publish_prices(
            connection,
            rt.settings.prices,
            rules=rt.settings.charge_rules,
            at=rt.now(),
            actor=OPERATOR,
        )
        note_schedules(connection, rt.settings.job_schedules, at=rt.now())
        ours = read_installation(connection)
    line = f"{schema}; {added} price versions are new; installation {ours.installation_id}"
    Console().print(line, soft_wrap=True, highlight=False)
    check_configured(rt.settings, ours)
    _write_to_redis(rt, ours)


def _write_to_redis(rt: Runtime, ours: InstallationIdentity) -> None:
    """Write the id where it is missing. Raises ForeignRedisError; what was migrated stays."""
    try:
        check_server(rt.redis)
        claim(rt.redis, ours, rt.settings)
    except RedisError as error:
        sys.stderr.write(f"redis cannot be asked, the first worker writes the id of the installation: {error}\n")
