"""`usage-tasks webhook`: become the receiver."""

import os
import sys

from usage_tasks.settings import load_settings


def webhook() -> None:
    """Run the webhook receiver; `server` in the configuration file has its address and port."""
    server = load_settings(os.environ).server
    # A process of its own, which holds nothing of what this one imports.
    command = [sys.executable, "-m", "usage_tasks.webhook_app", server.address, str(server.port)]
    os.execvp(command[0], command)  # noqa: S606 - an argument list of our own, no shell
