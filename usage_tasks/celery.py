"""The Celery application: `celery -A usage_tasks worker|beat|flower`.

Light to import, for the receiver publishes with it: tasks are imported by workers only. Its settings are those of
celeryconfig.py of this installation, or of the module that CELERY_CONFIG_MODULE names; a file of that name in the
working directory is somebody else's.
"""

import atexit
import gc
import os
from typing import Any

from celery import Celery, signals

from usage_tasks.telemetry.headers import stamp
from usage_tasks.telemetry.logs import configure_logging

app = Celery(
    "usage_tasks",
    include=[
        "usage_tasks.worker.schema",
        "usage_tasks.tasks.usage.ledger",
        "usage_tasks.tasks.usage.sessions",
        "usage_tasks.tasks.usage.accounts",
        "usage_tasks.tasks.usage.quarantine",
        "usage_tasks.tasks.usage.limits",
        "usage_tasks.tasks.usage.report",
        "usage_tasks.tasks.usage.prices",
        "usage_tasks.tasks.usage.explain",
        "usage_tasks.tasks.usage.credit",
        "usage_tasks.tasks.directory",
        "usage_tasks.tasks.billing.sync",
        "usage_tasks.tasks.billing.invoices",
        "usage_tasks.tasks.billing.customers",
        "usage_tasks.tasks.billing.payments",
        "usage_tasks.tasks.billing.metering",
        "usage_tasks.tasks.stripe.events",
        "usage_tasks.tasks.stripe.review",
        "usage_tasks.tasks.maintenance",
        "usage_tasks.worker.broker_time",
        "usage_tasks.worker.shutdown",
    ],
)
app.config_from_object(os.environ.get("CELERY_CONFIG_MODULE", "usage_tasks.celery_files.celeryconfig"))

# A process ends without a last search for garbage among all its modules, which takes 0.3 s of CPU time.
atexit.register(gc.freeze)


@signals.setup_logging.connect
def _set_up_logging(**_: object) -> None:
    configure_logging(os.environ.get("USAGE_LOG_LEVEL", "INFO"))


@signals.before_task_publish.connect
def _stamp(headers: dict[str, Any] | None = None, **_: object) -> None:
    if headers is not None:
        stamp(headers)


@signals.worker_init.connect
def _correct_channel(**_: object) -> None:
    from usage_tasks.coordination.celery_internals.channel import correct_channel  # noqa: PLC0415 - for workers only

    correct_channel()


@signals.worker_init.connect
@signals.beat_init.connect
def _count_answers_as_lost(**_: object) -> None:
    from usage_tasks.coordination.celery_internals.answers import (  # noqa: PLC0415 - for workers and beats only
        count_answers_as_lost,
    )

    count_answers_as_lost()


@signals.worker_init.connect
def _serve_metrics(sender: Any, **_: object) -> None:
    from usage_tasks.telemetry.serving import serve_as_configured  # noqa: PLC0415 - only a worker has metrics to show

    pool = str(sender.pool_cls)  # the class, or the name that the settings have
    serve_as_configured(forks="prefork" in pool or pool == "processes")


@signals.celeryd_init.connect
def _name_worker(instance: Any, options: dict[str, Any], **_: object) -> None:
    from usage_tasks.worker.naming import name_by_queues  # noqa: PLC0415 - for workers only

    name_by_queues(instance, options.get("queues"))


@signals.worker_process_shutdown.connect
def _forget_child(pid: int, **_: object) -> None:
    from prometheus_client import multiprocess  # noqa: PLC0415 - only a worker has metrics to show

    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]  # the library has no annotation here
