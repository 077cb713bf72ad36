"""`usage-tasks flower`: become Flower, read-only and with a password."""

import os
import sys
from typing import Annotated, Final

import typer

from usage_tasks.commands import USAGE_ERROR
from usage_tasks.listening import check_port

CREDENTIALS_VARIABLE: Final = "FLOWER_BASIC_AUTH"
CONFIG_VARIABLE: Final = "FLOWER_CONF"


def flower(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5555,
    address: Annotated[str, typer.Option()] = "127.0.0.1",
) -> None:
    """Run Flower, read-only and with a password: FLOWER_BASIC_AUTH=user:password must be set.

    The password is printable ASCII without a comma. Flower's /metrics and /healthcheck need no password: keep the
    address private.
    """
    if (wrong := _find_fault(os.environ.get(CREDENTIALS_VARIABLE, ""))) is not None:
        sys.stderr.write(f"{CREDENTIALS_VARIABLE}: {wrong}\n")
        raise typer.Exit(USAGE_ERROR)
    check_port("--address and --port", address, port)
    arguments = [f"--address={address}", f"--port={port}", "--read-only"]
    if CONFIG_VARIABLE not in os.environ:
        # The working directory may hold somebody else's flowerconfig.py, which could take the password away.
        arguments.append(f"--conf={os.devnull}")
    command = [sys.executable, "-m", "celery", "-A", "usage_tasks", "flower", *arguments]
    # The password stays in the environment, which Flower reads by this name: an argument shows in the process list.
    os.execvp(command[0], command)  # noqa: S606 - an argument list of our own, no shell


def _find_fault(credentials: str) -> str | None:
    """Return what is wrong with the credentials, without repeating them; None if Flower takes them as they are.

    Flower splits them at commas into several, and lets each part in: of `ops:,secret` a user `ops` without a password.
    It answers everybody with 500 if they are not ASCII.
    """
    if not credentials:
        return "not set; it must be user:password"
    if not all(credentials.partition(":")[::2]):
        return "must be user:password, neither of them empty (the value is not shown)"
    if "," in credentials:
        return "must be user:password without a comma, at which Flower would split it (the value is not shown)"
    if not (credentials.isascii() and credentials.isprintable()):
        return "must be user:password in printable ASCII (the value is not shown)"
    return None
