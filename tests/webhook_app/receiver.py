"""The receiver in front of a Celery app of its own, as a WSGI server in another process imports it."""

import os

from celery import Celery

from usage_tasks.telemetry.logs import configure_logging
from usage_tasks.webhook_app import make_app, publisher

SECRETS = ("whsec_new", "whsec_old")
QUEUE = "stripe"


def make_celery(broker_url: str) -> Celery:
    """A Celery app that knows where the receiver's task goes, and no more."""
    celery_app = Celery("receiver", broker=broker_url, set_as_current=False)
    celery_app.conf.task_routes = {"stripe.*": {"queue": QUEUE}}
    return celery_app


if url := os.environ.get("RECEIVER_BROKER_URL"):
    configure_logging()
    app = make_app(secrets=SECRETS, publish=publisher(make_celery(url)))
