"""`usage-tasks schemas`: the interface of the tasks, and of the messages to the platform."""

import json

from rich.console import Console

from usage_tasks.celery import app
from usage_tasks.tasks.schemas import list_schemas


def schemas() -> None:
    """Print the JSON Schema of every task's arguments, and of every message to the platform, by name."""
    app.loader.import_default_modules()
    Console().print_json(json.dumps(list_schemas()))
