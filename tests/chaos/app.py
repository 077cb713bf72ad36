"""The application as it is, with tasks of the tests' own: `celery -A tests.chaos.app worker`."""

from usage_tasks.celery import app

app.conf.include = [*app.conf.include, "tests.chaos.tasks"]
