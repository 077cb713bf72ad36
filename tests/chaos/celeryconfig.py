"""The settings as they are, but for shorter waits: 10 s for a lost message, not 15 minutes; 5 s of grace, not 30."""

from usage_tasks.celery_files.celeryconfig import *  # noqa: F403 - as it is
from usage_tasks.celery_files.celeryconfig import broker_transport_options as _as_shipped

broker_transport_options = _as_shipped | {"visibility_timeout": 10}
worker_soft_shutdown_timeout = 5
