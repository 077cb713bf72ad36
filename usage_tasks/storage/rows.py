"""Small helpers that every table module uses."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import Connection, CursorResult, Row, text

from usage_tasks.storage.announced import mark_if_announcing


def as_json(value: object) -> str:
    """Encode a parameter for CAST(:name AS jsonb); UUIDs, decimals and datetimes become text."""
    return json.dumps(value, default=_encode, ensure_ascii=False)


def rows_as_json(rows: Sequence[object]) -> str:
    """Encode a batch of dataclasses, a field a column, for jsonb_to_recordset(CAST(:name AS jsonb)): in native code."""
    return to_json(rows).decode()


def _encode(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat()
        case UUID() | Decimal():
            return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def sql_list(values: Iterable[str]) -> str:
    """Write names of ours, such as an enumeration's, as the items of an SQL list; never a caller's text."""
    return ", ".join(f"'{value}'" for value in values)


# To find the parameters in a long statement takes as long as a short round trip; there are only so many statements.
_parsed = lru_cache(maxsize=512)(text)


def _run(connection: Connection, statement: str, parameters: Any) -> CursorResult[Any]:
    result = connection.execute(_parsed(statement), parameters)
    mark_if_announcing(connection, statement)
    return result


def fetch(connection: Connection, statement: str, **parameters: object) -> Sequence[Row[tuple[object, ...]]]:
    """Run one statement and return its rows."""
    return _run(connection, statement, parameters).all()


def fetch_one(connection: Connection, statement: str, **parameters: object) -> Row[tuple[object, ...]]:
    """Run one statement that answers with exactly one row."""
    return _run(connection, statement, parameters).one()


def execute(connection: Connection, statement: str, **parameters: object) -> int:
    """Run one statement and return how many rows it changed."""
    return _run(connection, statement, parameters).rowcount


def execute_many(connection: Connection, statement: str, rows: Iterable[Mapping[str, object]]) -> None:
    """Run one statement once a row, in one round trip; nothing if there is no row."""
    if parameters := [dict(row) for row in rows]:
        _run(connection, statement, parameters)
