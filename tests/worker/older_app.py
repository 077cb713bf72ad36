"""The older version of the application: `celery -A tests.worker.older_app worker`."""

from usage_tasks.celery import app

app.conf.include = [*app.conf.include, "tests.worker.older_tasks"]
