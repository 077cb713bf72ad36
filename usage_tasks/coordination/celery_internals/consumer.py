"""The state of a worker's consumer: the messages that it holds."""

from typing import Any

from celery.worker import state


def count_unworked(consumer: Any) -> int:
    """Return how many messages a worker holds unacknowledged beyond those it works on; below 1 is in order.

    Internal: `_delivered` and `_dirty` of kombu's `transport.virtual.QoS`, reached by `consumer.task_consumer.channel`,
    and Celery's `worker.state.reserved_requests`; both 5.7. No public counter shows the difference, and a worker whose
    prefetch limit is used up by lost acknowledgements takes no more messages.
    """
    qos = consumer.task_consumer.channel.qos
    return len(qos._delivered) - len(qos._dirty) - len(state.reserved_requests)
