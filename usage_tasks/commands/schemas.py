"""`usage-tasks schemas`: the interface of the tasks."""

import json

from rich.console import Console

from usage_tasks.celery import app
from usage_tasks.tasks.task import ARGUMENT_SCHEMAS


def schemas() -> None:
    """Print the JSON Schema of every task's arguments, by the task's name."""
    app.loader.import_default_modules()
    Console().print_json(json.dumps(ARGUMENT_SCHEMAS))
