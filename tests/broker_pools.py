"""The connections to the broker that this process's Celery application keeps."""

from typing import Any

from usage_tasks.celery import app


def forget_pools() -> None:
    """Have the application connect anew: its pools may be closed, or lead to a server of an earlier test."""
    application: Any = app
    application._after_fork()
