"""The parts of a schema, as the server shows them."""

from collections.abc import Mapping, Sequence
from typing import Final, LiteralString

import psycopg

_PARTS: Final[Mapping[str, LiteralString]] = {
    "columns": """
        SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull,
               attcollation::regcollation::text, pg_get_expr(adbin, adrelid)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    """,
    "indexes": """
        SELECT pg_get_indexdef(indexrelid), indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE relnamespace = 'public'::regnamespace
    """,
    "triggers": "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "functions": "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'",
    "comments": """
        SELECT objoid::regclass::text, description FROM pg_description
        WHERE classoid = 'pg_class'::regclass AND objoid >= 16384
    """,
}


def read_catalog(url: str) -> Mapping[str, Sequence[tuple[object, ...]]]:
    """Read the parts of the schema `public`, each sorted."""
    with psycopg.connect(url) as connection:
        return {name: sorted(connection.execute(part).fetchall(), key=repr) for name, part in _PARTS.items()}
