"""The names behind Celery's routing. Needs an application and imports none."""

from collections.abc import Set as AbstractSet
from typing import Any


def find_queue(app: Any, task: str) -> Any:
    """Return the `kombu.Queue` to which an application sends a task.

    Internal: `app.amqp.router`, Celery 5.7. The receiver sends without the application, and must send to its queue.
    """
    return app.amqp.router.route({}, task)["queue"]


def list_consumed_queues(app: Any) -> AbstractSet[str]:
    """Return the names of the queues that this process takes messages from, once its worker is set up.

    Internal: `app.amqp.queues.consume_from`, Celery 5.7. The option `--queues` of a worker shows nowhere else.
    """
    return frozenset(app.amqp.queues.consume_from)


def list_queues(app: Any) -> AbstractSet[str]:
    """Return the names of all queues of an application.

    Internal: `app.amqp.queues`, Celery 5.7; a worker's `--queues` leaves the others in.
    """
    return frozenset(app.amqp.queues)
