"""Databases for migrations."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from usage_tasks.embedded.servers import Servers

EMPTY = "usage_test_empty"


@pytest.fixture
def empty_url(servers: Servers) -> Iterator[str]:
    """A database without a table, as SQLAlchemy takes it."""
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(EMPTY)))
        try:
            url = make_url(servers.database_url).set(database=EMPTY, drivername="postgresql+psycopg")
            yield url.render_as_string(hide_password=False)
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(EMPTY)))
