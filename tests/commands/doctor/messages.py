"""Messages that were sent some time ago."""

import json
import time
from typing import Any

import redis

from tests.client.test_client import make_sender
from usage_tasks.coordination.celery_internals.queues import list_key


def send_aged(url: str, task: str, count: int = 1, *, seconds_ago: float) -> None:
    """Send messages to the queue of a task, as if that was some time ago. No worker may take them meanwhile."""
    queue = task.partition(".")[0]
    with make_sender(url) as sender, redis.Redis.from_url(url) as client:
        for _ in range(count):
            sender.send_task(task, queue=queue, ignore_result=True)
        for number in range(count):
            message: Any = json.loads(client.lindex(list_key(client, queue), number) or b"")
            message["headers"]["published_at"] = time.time() - seconds_ago
            client.lset(list_key(client, queue), number, json.dumps(message))
