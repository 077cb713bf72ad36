"""Valid rows for property tests that build many accounts at once: inserted unchanged, one statement per table."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from usage_tasks.storage.schema import metadata


def insert_rows(connection: Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of equal columns; without rows, no statement."""
    if rows:
        connection.execute(metadata.tables[table].insert(), [dict(row) for row in rows])
