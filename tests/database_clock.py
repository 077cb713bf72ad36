"""A database whose clock is wrong: functions of the clock's names that stand before PostgreSQL's own."""

from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql

from usage_tasks.runtime import Runtime

_SCHEMA = "wrong_clock"
_CLOCKS = {"clock_timestamp": "VOLATILE", "now": "STABLE"}


def set_database_clock(database_url: str, ahead: timedelta) -> None:
    """Set the clock that statements ask. An open session keeps the clock of its first setting, if any.

    Defaults of columns keep PostgreSQL's own clock: they were bound to it when the table was created.
    """
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
        for name, volatility in _CLOCKS.items():
            statement = (
                f"CREATE OR REPLACE FUNCTION {_SCHEMA}.{name}() RETURNS timestamptz LANGUAGE sql {volatility} "
                f"AS 'SELECT pg_catalog.{name}() + interval ''{{}} seconds'''"
            )
            connection.execute(statement.format(ahead.total_seconds()))
        database: Any = connection.info.dbname
        path = sql.SQL("ALTER DATABASE {} SET search_path = {}, public, pg_catalog")
        connection.execute(path.format(sql.Identifier(database), sql.Identifier(_SCHEMA)))


def shift_database_clock(rt: Runtime, ahead: timedelta) -> None:
    """Set the clock, also for later reads of this process."""
    set_database_clock(rt.settings.database_url, ahead)
    rt.database.dispose()
