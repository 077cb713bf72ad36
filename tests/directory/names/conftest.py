"""An installation whose namespace is read, and what a platform would compute."""

from collections.abc import Callable
from uuid import UUID, uuid5

import pytest
from sqlalchemy import text

from usage_tasks.runtime import Runtime

IdOf = Callable[[str], str]


@pytest.fixture
def id_of(rt: Runtime) -> IdOf:
    """The UUID of `session:<id>`, `user:<id>` or `team:<id>`, by the recipe of docs/adr/0035 alone."""
    with rt.transaction() as connection:
        namespace = connection.execute(text("SELECT namespace FROM directory_namespace")).scalar_one()
    return lambda name: str(uuid5(UUID(str(namespace)), name))
