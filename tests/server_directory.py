"""Directories for the data of the tests' servers: in memory where there is room, else on the disk.

A database consists of 400 files. On a disk, the file system spends more time on copying them for the next test than
most tests spend on their work, although nothing is ever synced.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - only directories of random names are made in it
_MEMORY_INFO: Final = Path("/proc/meminfo")
ROOM_BYTES_MIN: Final = 3 * 2**30
"""A test process and its servers use 0.3 GB of it; containers often have only 64 MB there."""
PREFIX: Final = "usage-servers-"
ABANDONED_SECONDS_MIN: Final = 60


@contextmanager
def server_directory(*, memory: Path = MEMORY) -> Iterator[Path]:
    """Make an empty directory that every user can reach, as a server that may not run as root needs; remove it.

    If the block raises, also because a server did not start, a copy stays on the disk; the exception notes where.
    """
    _remove_abandoned(memory)
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=memory if _has_room(memory) else None))
    path.chmod(0o755)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield path
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        error.add_note(f"The servers' directory is kept in {_keep(path)}.")
        raise
    finally:
        os.close(descriptor)
        shutil.rmtree(path, ignore_errors=True)  # a killed server may still be ending


def _has_room(memory: Path) -> bool:
    """Return True if both that file system and the machine's memory have room."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY_INFO.read_text().splitlines())
        free_bytes = min(int(lines["MemAvailable"].split()[0]) * 1024, shutil.disk_usage(memory).free)
    except (OSError, KeyError):
        return False  # no Linux
    return os.access(memory, os.W_OK | os.X_OK) and free_bytes >= ROOM_BYTES_MIN


def _remove_abandoned(memory: Path) -> None:
    """Remove the directories of killed test processes: until the next boot nobody else would free their memory."""
    for path in memory.glob(f"{PREFIX}*"):
        with suppress(OSError):
            # A new one is not locked yet.
            if time.time() - path.stat().st_mtime < ABANDONED_SECONDS_MIN:
                continue
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its process lives
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _keep(path: Path) -> Path:
    kept = Path(tempfile.mkdtemp(prefix="usage-kept-"))
    with suppress(shutil.Error):  # a file that a killed server has just removed
        shutil.copytree(path, kept, dirs_exist_ok=True, symlinks=True)
    return kept
