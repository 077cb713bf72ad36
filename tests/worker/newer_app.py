"""The newer version of the application: `celery -A tests.worker.newer_app worker`."""

from usage_tasks.celery import app

app.conf.include = [*app.conf.include, "tests.worker.newer_tasks"]
