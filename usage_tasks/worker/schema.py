"""A worker takes no task before the database has the schema that its code needs, and Redis is its installation's."""

import os
import sys
from typing import Any, Final

from celery import signals

from usage_tasks.settings import load_settings
from usage_tasks.storage.schema_version import SchemaNewerError, await_schema
from usage_tasks.worker.installation import add_installation_check, exit_unless_ours

_USAGE_ERROR: Final = 2


@signals.celeryd_after_setup.connect
def await_schema_at_start(**_: object) -> None:
    """Wait for `usage-tasks migrate`; exit with code 2 on a schema that is too new for this version's code."""
    try:
        await_schema(load_settings(os.environ).sqlalchemy_url)
    except SchemaNewerError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_USAGE_ERROR)
    exit_unless_ours()


@signals.worker_init.connect
def _check_installation(sender: Any, **_: object) -> None:
    add_installation_check(sender.app)
