"""Send new announcements to the platform soon: the sweep alone would take up to a minute."""

from contextlib import suppress
from typing import Final

from celery import current_app
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from usage_tasks.coordination import debounce
from usage_tasks.domain.errors import UsageError
from usage_tasks.runtime import Runtime
from usage_tasks.storage.operations import outbox

DISPATCH: Final = "maintenance.dispatch_outbox"


def have_dispatched(rt: Runtime) -> None:
    """Have announcements sent if there are any, by one task however many ask for it meanwhile.

    A hint: if the database or the broker is away it is left to the sweep, as the change itself is done.
    """
    with suppress(UsageError, OperationalError, RedisError):
        with rt.transaction() as connection:
            waiting = outbox.is_any_waiting(connection)
        if waiting and debounce.is_first(rt.redis, DISPATCH):
            current_app.send_task(DISPATCH, ignore_result=True)
