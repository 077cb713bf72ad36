"""The files in which a worker's processes keep their metrics, one a process and kind, where some may be broken.

A process that is killed between opening its file and writing to it leaves an empty one; a full disk leaves a part of
one. Such a file is left out: it holds no counts, and must not hide the counts of the others.
Source of the format: prometheus_client/mmap_dict.py
"""

import json
import os
import re
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from usage_tasks.domain.errors import MisconfiguredError

log = structlog.get_logger(__name__)

MULTIPROC_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
_NAME: Final = re.compile(r"(?:counter|histogram|summary|gauge_[a-z]+)_(?P<pid>[0-9]+)\.db")
_HEAD_BYTES: Final = 8
_NUMBER: Final = struct.Struct("i")
_VALUES: Final = struct.Struct("dd")
_FRESH_SECONDS: Final = 60
"""A younger file may still be in writing."""


def prepare_directory() -> None:
    """Make the directory of metrics, where one is named, and remove the broken files of processes that have ended.

    The number of a process comes again, at once in a container: its successor could not open such a file. Raises
    MisconfiguredError if there is no such directory and it cannot be made.
    """
    name = os.environ.get(MULTIPROC_VARIABLE)
    if name is None:
        return
    try:
        directory = Path(name)
        directory.mkdir(parents=True, exist_ok=True)
        if not name or not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(0, "cannot be written")
    except OSError as error:
        found = f"{name!r}: {error.strerror}"
        raise MisconfiguredError(
            f"{MULTIPROC_VARIABLE}: must be a directory that can be written (got {found})"
        ) from error
    for path in directory.glob("*.db"):
        if (named := _NAME.fullmatch(path.name)) and not _is_running(int(named["pid"])) and not is_whole(path):
            _remove(path)


class WholeFilesCollector(Collector):
    """The metrics of all processes whose files can be read."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._left_out: set[Path] = set()

    def describe(self) -> list[Metric]:
        """Nothing is read before the first scrape."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Merge the files that are whole; log each other one once."""
        files = sorted(path for path in self._directory.glob("*.db"))
        whole = [path for path in files if _NAME.fullmatch(path.name) and is_whole(path)]
        for path in {*files}.difference(whole, self._left_out):
            log.warning("metrics.file_left_out", file=str(path))
        self._left_out = {*files}.difference(whole)
        merged: Any = MultiProcessCollector.merge(map(str, whole))  # type: ignore[no-untyped-call]  # not annotated
        return list(merged)


def is_whole(path: Path) -> bool:
    """Return True if the library can read every value of a file; it loops or fails at some that are broken."""
    try:
        data = path.read_bytes()
        (used,) = _NUMBER.unpack_from(data, 0)
        if used > len(data):
            return False
        position = _HEAD_BYTES
        while position < used:
            (length,) = _NUMBER.unpack_from(data, position)
            key_at = position + _NUMBER.size
            position = key_at + length + (8 - (length + 4) % 8) + _VALUES.size
            if length < 0 or position > used or not _is_key(data[key_at : key_at + length]):
                return False
    except (OSError, ValueError, struct.error):
        return False
    return bool(used >= 0)


def _is_key(encoded: bytes) -> bool:
    match json.loads(encoded):
        case [str(), str(), dict(), str()]:
            return True
        case _:
            return False


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False  # a file of this number that is there before this process has made one
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    try:
        if path.stat().st_mtime < time.time() - _FRESH_SECONDS or path.name.endswith(f"_{os.getpid()}.db"):
            path.unlink()
            log.warning("metrics.file_removed", file=str(path))
    except OSError:
        return  # another process of the worker has removed it
