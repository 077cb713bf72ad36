"""Have the platform hear soon of what was just announced: the sweep alone would let it wait for up to a minute."""

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

    A hint: where database or broker is away it is left to the sweep, for what announced them is done.
    """
    with suppress(UsageError, OperationalError, RedisError):
        with rt.transaction() as connection:
            waiting = outbox.is_any_waiting(connection)
        if waiting and debounce.is_first(rt.redis, DISPATCH):
            current_app.send_task(DISPATCH, ignore_result=True)
