"""Celery's settings, each with its reason. Facts: docs/adr/0004-celery-on-redis.md.

The broker, the schedules and everything else that an installation chooses come from the configuration file that
USAGE_CONFIG names; a wrong one ends the process with exit code 2 before anything starts.
"""

import os
import sys

from kombu import Exchange, Queue

# The file beside this one, by its name in the package: the working directory may hold another beat_schedule.py.
from usage_tasks.celery_files.beat_schedule import make_beat_schedule
from usage_tasks.domain.errors import MisconfiguredError
from usage_tasks.settings import SettingsError, load_settings
from usage_tasks.settings.redis_url import read_tls
from usage_tasks.telemetry.multiprocess import prepare_directory

try:
    _settings = load_settings(os.environ)
    prepare_directory()  # of a worker's metrics
except (SettingsError, MisconfiguredError) as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(2)

broker_url = _settings.redis_url
result_backend = _settings.redis_url
broker_use_ssl = read_tls(_settings.redis_url) or False  # as in the URL; Flower reads it here alone

# Names are protocol: the prefix of a task's name is its queue, and no other queue comes into being by a typing error.
# Each has an exchange of its name: without one, all six would be bound to the default queue's, by its key, and a
# message to that exchange would be in all of them.
task_queues = [
    Queue(name, Exchange(name), routing_key=name)
    for name in ("usage", "billing", "stripe", "directory", "maintenance", "server")
]
task_routes = {
    f"{prefix}.*": {"queue": prefix} for prefix in ("usage", "billing", "stripe", "directory", "maintenance", "server")
}
task_default_queue = "maintenance"
task_create_missing_queues = False

# JSON only: a process that can write to the broker must not be able to run code.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]

# A message is acknowledged after the work, and goes back when its worker dies. Neither makes it safe on Redis: the
# table is the truth, and a sweep finds what a message lost.
task_acks_late = True
task_reject_on_worker_lost = True
task_retry_on_worker_lost = True  # counts against max_retries, so that a poison message ends
task_acks_on_failure = True
task_acks_on_timeout = True  # False would loop for ever

# Longer than the longest task (10 minutes) and the longest wait for a retry (1 minute) together, for it is not renewed:
# a second copy would run beside the first. A sweep finds waiting work within a minute.
broker_transport_options = {
    "visibility_timeout": 900,
    "unacked_restore_interval": 5,  # else lost work comes back only after about 100 s
    "unacked_restore_throttle": 1,
    "socket_timeout": 2,  # a black hole is noticed: the loop that takes messages waits for each call (ADR 0028)
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 4,
    "priority_steps": [0],  # one list a queue
    "queue_order_strategy": "round_robin",
    "global_keyprefix": _settings.redis.prefix,
}
result_backend_transport_options = {
    "global_keyprefix": _settings.redis.prefix,
    # Any error answer of Redis to a result: it is tried again for 20 s (docs/adr/0029).
    "additional_connection_errors": ["redis.exceptions.ResponseError"],
}
redis_socket_timeout = 3
redis_socket_connect_timeout = 2
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_pool_acquire_timeout = 5
task_publish_retry_policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}

# An answer is read at once or never.
result_expires = 3600

worker_prefetch_multiplier = 1
worker_consumer = "usage_tasks.worker.broker:AwaitingConsumer"  # waits for a broker that takes no writes
worker_cancel_long_running_tasks_on_connection_loss = True  # else its redelivered copy runs beside it
worker_soft_shutdown_timeout = (
    30  # after SIGTERM so long to finish, then what is left is handed on (worker/shutdown.py)
)
worker_enable_soft_shutdown_on_idle = False  # True sleeps the 30 s through with nothing to do
worker_max_tasks_per_child = 1000
worker_max_memory_per_child = 400_000
worker_hijack_root_logger = False
worker_send_task_events = False  # a fifth of the throughput; `-E` where Flower is to show tasks

beat_schedule = make_beat_schedule(_settings)
# In memory: the database knows what is due, not a file of beat's. It writes a heartbeat too.
beat_scheduler = "usage_tasks.worker.beat:BeatingScheduler"
beat_max_loop_interval = 5
timezone = "UTC"
enable_utc = True
