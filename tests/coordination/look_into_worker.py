"""A real worker that looks at its own consumer while it works: `python -m tests.coordination.look_into_worker URL`.

A program, because a worker makes its application the default of the whole process. Prints JSON.
"""

import json
import os
import signal
import sys
from typing import Any, Final

from celery import Celery, bootsteps

from usage_tasks.coordination.celery_internals.consumer import find_unworked
from usage_tasks.coordination.celery_internals.routing import list_consumed_queues
from usage_tasks.worker.heartbeat import WorkerHeartbeat

LOOKED: Final = "looked"
BESIDE: Final = "beside"
WAITING: Final = 8
"""More than the prefetch limit, which Celery raises for each message with an ETA."""

_consumers: list[Any] = []


class Look(bootsteps.StartStopStep):
    """Keeps the consumer for the task; the solo pool runs that in the consumer's own thread."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Keep it."""
        _consumers.append(consumer)


def make_app(broker_url: str) -> Celery:
    """The application of this worker and of its sender."""
    app = Celery("looked_into", broker=broker_url, set_as_current=False)
    app.conf.update(task_acks_late=True, worker_prefetch_multiplier=4, worker_redirect_stdouts=False)
    app.steps["consumer"].add(Look)

    @app.task(name="look", shared=False)
    def look() -> None:
        (consumer,) = _consumers
        held = consumer.task_consumer.channel.qos._delivered
        seen: dict[str, Any] = {"queues": sorted(list_consumed_queues(app)), "held": len(held)}
        seen["at_work"] = len(find_unworked(consumer))
        heartbeat = WorkerHeartbeat(consumer)
        heartbeat.check_leak(consumer)
        # A message that the channel delivered and no task of this worker represents.
        message = consumer.task_consumer.channel.basic_get(BESIDE, no_ack=False)
        seen["one_leaked"] = len(find_unworked(consumer))
        seen["checks"] = [_check_leak(heartbeat, consumer) for _ in range(2)]
        message.ack()
        seen["acknowledged"] = len(find_unworked(consumer))
        print(json.dumps(seen), flush=True)  # noqa: T201
        os.kill(os.getpid(), signal.SIGTERM)

    @app.task(name="limited", rate_limit="1/h", shared=False)
    def limited() -> None:
        """Use up the only token of the hour, or wait for the next one."""

    return app


def send_normal_states(app: Celery) -> int:
    """Send messages that a worker holds for long without being at fault; return how many it holds beside `look`."""
    for _ in range(WAITING):
        app.send_task("look", queue=LOOKED, countdown=3600)
        app.send_task("limited", queue=LOOKED, countdown=3600)
    for _ in range(2):
        app.send_task("limited", queue=LOOKED)
    return 2 * WAITING + 1


def _check_leak(heartbeat: WorkerHeartbeat, consumer: Any) -> str:
    try:
        heartbeat.check_leak(consumer)
    except ConnectionResetError as error:
        return str(error)
    return "waits for the second time"


if __name__ == "__main__":
    quiet = ["--without-mingle", "--without-gossip", "--without-heartbeat", "--loglevel=ERROR"]
    make_app(sys.argv[1]).worker_main(["--quiet", "worker", "--pool=solo", f"--queues={LOOKED}", *quiet])
