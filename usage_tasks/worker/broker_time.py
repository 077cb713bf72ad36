"""A worker judges by the broker's clock which messages were taken too long ago. Celery imports it with the tasks."""

from celery import signals

from usage_tasks.coordination.broker_clock import BrokerClock
from usage_tasks.coordination.celery_internals.visibility import judge_by
from usage_tasks.runtime import runtime


@signals.worker_init.connect
def _keep_broker_time(**_: object) -> None:
    judge_by(BrokerClock(lambda: runtime().redis))  # its client is built when it is first asked, after the first forks
