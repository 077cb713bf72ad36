"""A second installation beside the one of each test."""

from collections.abc import Iterator

import pytest
from sqlalchemy import make_url, text

from tests.conftest import Clone, with_driver
from tests.factories import START
from usage_tasks.coordination.clock import TestClock
from usage_tasks.runtime import Runtime
from usage_tasks.storage.engine import Database
from usage_tasks.storage.operations.installation import renew_installation


@pytest.fixture(autouse=True)
def clock(rt: Runtime) -> None:
    """The test clock of the first installation, which `migrate` asks."""
    TestClock(rt.redis).advance(START)


@pytest.fixture
def other_database(clone: Clone) -> Iterator[Database]:
    """The database of another installation, with an id of its own."""
    with clone() as url:
        opened = Database(with_driver(url))
        with opened.transaction() as connection:
            renew_installation(connection)
        yield opened
        opened.dispose()


@pytest.fixture
def other_environment(environment: dict[str, str], other_database: Database) -> dict[str, str]:
    """The variables of another installation on the same Redis, with the same prefix."""
    with other_database.transaction() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
    url = make_url(environment["DATABASE_URL"]).set(database=name).render_as_string(hide_password=False)
    return environment | {"DATABASE_URL": url}
