"""The application with a command that shows what its timer keeps: `celery -A tests.worker.shown_timer worker`."""

from typing import Any

from celery.worker.control import inspect_command

from usage_tasks.celery import app

app.conf.include = [*app.conf.include, "tests.chaos.tasks"]


@inspect_command()
def cancelled_entries(state: Any) -> int:
    """Return how many entries a worker's timer keeps that were cancelled."""
    return sum(scheduled.entry.canceled for scheduled in state.consumer.timer._queue)
