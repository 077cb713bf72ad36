"""The unchanged settings, except that no child is replaced during a run, with the same effect for both tasks."""

from usage_tasks.celery_files.celeryconfig import *  # noqa: F403 - as it is

worker_max_tasks_per_child = 1_000_000
