"""A database whose clock is wrong, or, seen from there, hosts whose clocks are."""

from datetime import timedelta

from sqlalchemy import text

from usage_tasks.runtime import Runtime


def shift_database_clock(rt: Runtime, by: timedelta) -> None:
    """Let the database's clock differ from its host's from now on, for every session that begins.

    A function of that name stands before PostgreSQL's own in the search path. Defaults of columns keep PostgreSQL's.
    """
    with rt.transaction() as connection:
        connection.execute(text("CREATE SCHEMA IF NOT EXISTS shifted"))
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS "
                f"$$ SELECT pg_catalog.clock_timestamp() + interval '{by.total_seconds()} seconds' $$"
            )
        )
        database = connection.execute(text("SELECT quote_ident(current_database())")).scalar_one()
        connection.execute(text(f"ALTER DATABASE {database} SET search_path = shifted, pg_catalog, public"))
    rt.database.dispose()
