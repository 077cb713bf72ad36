"""All rows of a database, to detect whether something was written."""

from sqlalchemy import Connection, text

from usage_tasks.storage.engine import Database
from usage_tasks.storage.schema import metadata

Snapshot = dict[str, object]


def take_snapshot(connection: Connection) -> Snapshot:
    """Each table's rows with the transaction that wrote them, and each sequence."""
    found: Snapshot = {}
    for table in metadata.tables:
        rows = f"SELECT array_agg(t.xmin || ' ' || t::text ORDER BY t.xmin::text, t::text) FROM \"{table}\" t"  # noqa: S608
        found[table] = connection.execute(text(rows)).scalar_one()
    sequences = "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1"
    found["sequences"] = [tuple(row) for row in connection.execute(text(sequences))]
    assert len(found) > 10
    return found


def snapshot(database: Database) -> Snapshot:
    """The same, in a transaction of its own."""
    with database.transaction() as connection:
        return take_snapshot(connection)
