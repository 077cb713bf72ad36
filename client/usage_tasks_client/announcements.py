"""Receive the announcements of usage-tasks: the messages to the platform, on the queue `server`."""

from collections.abc import Callable
from typing import Any, Final

from celery import Celery

ANNOUNCEMENTS: Final = (
    "server.usage_threshold_reached",
    "server.usage_limit_reached",
    "server.usage_hard_limit_reached",
    "server.block_user",
    "server.unblock_user",
    "server.block_account",
    "server.unblock_account",
    "server.refund_failed",
    "server.payment_failed",
    "server.payment_reminder",
    "server.suspend_account",
    "server.resume_account",
    "server.payment_settled",
    "server.payment_action_required",
    "server.invoice_finalization_failed",
    "server.account_parked",
    "server.usage_alert_triggered",
)
"""The name of every announcement."""


def listen(app: Celery, handle: Callable[..., object], **options: Any) -> None:
    """Declare every announcement as a task of this application, which calls `handle(name, **fields)`.

    A worker drops a message whose task it does not know, so all of them are declared. The same announcement may come
    twice, under the same task id (`celery.current_task.request.id`). `options` are those of Celery's tasks; unless they
    set `acks_late`, a message is acknowledged after `handle` has returned.
    """
    for name in ANNOUNCEMENTS:
        # Not shared: another application of this process may listen with another handler.
        declare: Any = app.task(name=name, shared=False, **{"acks_late": True, **options})
        declare(_receiver(name, handle))


def _receiver(name: str, handle: Callable[..., object]) -> Callable[..., object]:
    def receive(**fields: Any) -> object:
        return handle(name, **fields)

    return receive
