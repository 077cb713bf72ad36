"""`usage-tasks flower`: become Flower, read-only and with a password."""

import os
import sys
from typing import Annotated

import typer

from usage_tasks.commands import USAGE_ERROR


def flower(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5555,
    address: Annotated[str, typer.Option()] = "127.0.0.1",
) -> None:
    """Run Flower, read-only and with a password: FLOWER_BASIC_AUTH=user:password must be set.

    Its /metrics and /healthcheck stay open to whoever reaches the address: keep it private.
    """
    credentials = os.environ.get("FLOWER_BASIC_AUTH", "")
    if not all(credentials.partition(":")[::2]):
        sys.stderr.write("FLOWER_BASIC_AUTH: not set; it must be user:password\n")
        raise typer.Exit(USAGE_ERROR)
    arguments = [f"--address={address}", f"--port={port}", "--read-only"]
    command = [sys.executable, "-m", "celery", "-A", "usage_tasks", "flower", *arguments]
    # The password stays in the environment, which Flower reads by this name: an argument shows in the process list.
    os.execvp(command[0], command)  # noqa: S606 - an argument list of our own, no shell
