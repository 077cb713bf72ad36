"""`usage-tasks settings`: what is in force, without secrets."""

import os
import sys

from usage_tasks.settings import load_settings, print_settings


def settings() -> None:
    """Check the settings and print them, without secrets, as a configuration file."""
    sys.stdout.write(print_settings(load_settings(os.environ)))
