"""`usage-tasks settings`: what is in force, without secrets."""

import os

from rich.console import Console

from usage_tasks.settings import load_settings


def settings() -> None:
    """Check the settings and print them, without secrets."""
    Console().print_json(load_settings(os.environ).model_dump_json(by_alias=True, exclude={"database", "redis"}))
