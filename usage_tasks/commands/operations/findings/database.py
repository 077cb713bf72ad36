"""The database itself: its clock, its schema, its connections, and the prices that are in force."""

from typing import Final

from usage_tasks.commands.operations.findings.finding import Examination, Findings, count, fine, wrong
from usage_tasks.storage.operations.evidence import ConnectionUse, read_connection_use
from usage_tasks.storage.pricing import prices
from usage_tasks.storage.schema_version import read_schema_version

_USED_PERCENT_MAX: Final = 90


def ask_database(it: Examination) -> Findings:
    """Read its clock and its schema; nothing else can be asked of a schema that does not fit."""
    it.clocks.ask("database", lambda: it.rt.database.read_clock().timestamp())
    with it.rt.transaction() as connection:
        schema = read_schema_version(connection)
    if schema.fits:
        yield fine("migrations", str(schema))
    else:
        yield wrong("migrations", str(schema), f"{schema.advice[:1].upper()}{schema.advice[1:]}")


def look_at_connections(it: Examination) -> Findings:
    """Compare the connections with each limit of the server, the database and the role."""
    with it.rt.transaction() as connection:
        uses = read_connection_use(connection)
    for each in uses:
        found = f"{each.used} of {each.allowed} connections of the {each.limited_by} are used"
        if 100 * each.used < _USED_PERCENT_MAX * each.allowed:
            yield fine("connections", found)
        else:
            yield wrong("connections", found, _advice(each))


def _advice(use: ConnectionUse) -> str:
    limit = {"server": "max_connections", "database": "ALTER DATABASE ... CONNECTION LIMIT"}
    raise_it = limit.get(use.limited_by, "ALTER ROLE ... CONNECTION LIMIT")
    return f"Start fewer worker processes (each holds up to 5), or raise {raise_it}: new connections are refused soon."


def look_at_prices(it: Examination) -> Findings:
    """Compare the prices of the settings with the last published ones."""
    settings = it.rt.settings
    with it.rt.transaction() as connection:
        pending = prices.list_unpublished(connection, settings.prices, rules=settings.charge_rules)
    if pending:
        found = f"{count(len(pending), 'price')} of the settings not in force: {', '.join(pending)}"
        yield wrong(
            "prices", found, "Run `usage-tasks migrate`: until then the old prices bill. See `usage-tasks prices list`."
        )
    else:
        yield fine("prices", "those of the settings are in force")
