"""`usage-tasks migrate`: the schema, then the price list of the configuration file."""

from rich.console import Console

from usage_tasks.commands import OPERATOR
from usage_tasks.runtime import runtime
from usage_tasks.services.operations.job_standings import note_schedules
from usage_tasks.storage import migrate as migrations
from usage_tasks.storage.pricing import prices


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
            actor=OPERATOR,
        )
        note_schedules(connection, rt.settings.job_schedules, at=rt.now())
    Console().print(f"the schema is up to date; {added} price versions are new")
