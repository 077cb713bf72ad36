"""The directory of one server: made, writable, and locked for as long as anything of the server lives."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from usage_tasks.embedded.processes import POLL_SECONDS, StartError, is_alive

LOCK: Final = "lock"
# PostgreSQL's own limit of a path is 1024 bytes, and it puts file names behind ours.
PATH_BYTES_MAX: Final = 900
# A killed supervisor's server needs a moment to end.
ORPHAN_SECONDS_MAX: Final = 15


@contextmanager
def held_directory(directory: Path, *, name: str) -> Iterator[int]:
    """Make the directory and hold its lock; yield the lock's descriptor, for the server to keep open.

    Every process with the descriptor holds the lock. A server that inherits it, and hands it on to its own
    children, keeps others out until the last of them is gone, even if the supervisor dies.
    """
    if len(os.fsencode(directory)) > PATH_BYTES_MAX:
        problem = f"The directory of {name} has a path of more than {PATH_BYTES_MAX} bytes: {directory}"
        raise StartError(problem, advice="Choose a directory with a shorter path.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        advice = "Choose another directory, or make this one writable for the user who runs this."
        raise StartError(f"{name} cannot keep its data in {directory}: {error.strerror}", advice=advice) from error
    try:
        _lock(descriptor, directory=directory, name=name)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, directory: Path, name: str) -> None:
    give_up_at = time.monotonic() + ORPHAN_SECONDS_MAX
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            supervisor = _read_pid(descriptor)
            # An orphan is about to end; a server whose supervisor lives is not.
            if (supervisor and is_alive(supervisor)) or time.monotonic() > give_up_at:
                advice = f"Stop process {supervisor or 'that uses it'}, or choose another directory."
                problem = f"{name} already runs in {directory}, started by process {supervisor or 'unknown'}."
                raise StartError(problem, advice=advice) from error
        time.sleep(POLL_SECONDS)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 20, 0)
    return int(text) if text.isdigit() else None
