"""The receiver in front of a Celery app of its own, as a server in another process imports it."""

import os

from celery import Celery

from usage_tasks.telemetry.logs import configure_logging
from usage_tasks.webhook_app.application import make_application
from usage_tasks.webhook_app.configuration import Broker, Configuration

SECRETS = ("whsec_new", "whsec_old")
THIN_SECRETS = ("whsec_thin_new", "whsec_thin_old")
QUEUE = "stripe"
PROXY = "127.0.0.1"


def make_celery(broker_url: str) -> Celery:
    """A Celery app that knows the route of the receiver's task, and no more."""
    celery_app = Celery("receiver", broker=broker_url, set_as_current=False)
    celery_app.conf.task_routes = {"stripe.*": {"queue": QUEUE}}
    return celery_app


def configuration(broker_url: str, refusals_per_minute: int = 0, redis_url: str = "") -> Configuration:
    """The configuration of the receiver of these tests; it trusts a proxy on this machine."""
    return Configuration(
        secrets=SECRETS,
        thin_secrets=THIN_SECRETS,
        redis_url=redis_url or broker_url,
        refusals_per_minute=refusals_per_minute,
        trusted_proxies=[PROXY],
        broker=Broker(
            url=broker_url, transport_options={}, use_ssl=False, queue=QUEUE, exchange=QUEUE, routing_key=QUEUE
        ),
    )


if url := os.environ.get("RECEIVER_BROKER_URL"):
    configure_logging()
    app = make_application(configuration(url, int(os.environ.get("RECEIVER_REFUSALS", "0"))))
