"""The settings as they are, but for a grace of a second at a stop, not 30, and a lost message's wait of 6 s."""

from usage_tasks.celery_files.celeryconfig import *  # noqa: F403 - as it is
from usage_tasks.celery_files.celeryconfig import broker_transport_options as _as_shipped

broker_transport_options = _as_shipped | {"visibility_timeout": 6, "unacked_restore_interval": 1}
worker_soft_shutdown_timeout = 1
