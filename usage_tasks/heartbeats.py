"""Heartbeat files: each worker and each beat writes one. Imports no library, for `usage-tasks health` reads them.

A file belongs to one process: `<kind>.<name>.<pid>-<namespace>-<start>.json`. Several workers of one machine may have
the same node name, each container has a process 1, and the number of a process comes again. The process that ends in
order removes its file. A process that was killed leaves it, and the next one of the same name and queues removes it.
"""

import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from functools import cache
from math import inf, isfinite
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

DIRECTORY_VARIABLE: Final = "USAGE_HEARTBEAT_DIR"
BEAT_SECONDS: Final = 5
SILENCE_SECONDS_MAX: Final = 15
"""A younger heartbeat is fresh."""

_BYTES_MAX: Final = 65_536
_TEXT_LENGTH_MAX: Final = 300
_ADDRESSES_MAX: Final = 16
_PORT_MAX: Final = 65_535
_BUSY_SECONDS_MAX: Final = 86_400
_NAME_SAFE: Final = "@,+="
_BEGAN_AT: Final = time.monotonic()


class Trouble(NamedTuple):
    """A fault that a process has found in itself, with what to do, and for how many seconds it has lasted."""

    text: str
    seconds: float


class Address(NamedTuple):
    """Where a server listens; a host that begins with / is the path of a socket."""

    host: str
    port: int


class Presence(Enum):
    """Whether the process of a heartbeat exists."""

    THERE = auto()
    GONE = auto()
    UNKNOWN = auto()
    """It is of another container: its number means nothing here."""


class Heartbeat(NamedTuple):
    """The content of a heartbeat file. Instants are of the machine's monotonic clock, in seconds.

    `queues` is None in a file of an earlier version. `age` is in seconds, infinite for an instant still to come.
    `due_at` of a beat: when the first of its ticks that are not sent is, or was, due.
    """

    file: Path
    name: str
    queues: tuple[str, ...] | None
    pid: int
    presence: Presence
    beat_at: float
    age: float
    due_at: float | None
    sent_at: float | None
    broker: Address | None
    database: tuple[Address, ...]
    troubles: tuple[Trouble, ...]


class HeartbeatError(ValueError):
    """A file that is not a heartbeat."""


def write_heartbeat(
    directory: Path,
    kind: str,
    name: str,
    *,
    broker: Sequence[object],
    queues: Sequence[str] = (),
    database: Sequence[Sequence[object]] = (),
    troubles: Sequence[Trouble] = (),
    busy_until: float | None = None,
    due_at: float | None = None,
    sent_at: float | None = None,
) -> None:
    """Note that this process lives and works; `broker` is the host and port that it depends on. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    file = _own_file(directory, kind, name)
    document = {
        "pid": os.getpid(),
        "namespace": _namespace(),
        "started": _read_start(os.getpid()),
        "boot": _boot(),
        "name": name,
        "queues": list(queues),
        "broker": list(broker),
        "database": [list(each) for each in database],
        "beat_at": time.monotonic(),
        "busy_until": busy_until,
        "due_at": due_at,
        "sent_at": sent_at,
        "troubles": [list(each) for each in troubles],
    }
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(document))
    fresh.replace(file)


def remove_heartbeat(directory: Path, kind: str, name: str) -> None:
    """Note that this process has ended in order. Raises OSError."""
    _own_file(directory, kind, name).unlink(missing_ok=True)


def replace_dead(directory: Path, kind: str, name: str, queues: Sequence[str]) -> bool:
    """Remove the file of one process that this one was started for; return False if there is none.

    It has the same name and queues, is gone, and gave its last sign before this process began. One file only: of two
    that were killed, the second stays reported until somebody starts it too.
    """
    found = [each for each in map(_readable, list_files(directory, kind)) if each is not None]
    for each in sorted(found, key=lambda heartbeat: heartbeat.beat_at):
        alike = each.name == name and each.queues in (tuple(queues), None)
        silent = each.presence is Presence.UNKNOWN and each.age > SILENCE_SECONDS_MAX
        if alike and each.beat_at < _BEGAN_AT and (silent or each.presence is Presence.GONE):
            try:
                each.file.unlink()
            except FileNotFoundError:  # another process that was started took it
                continue
            return True
    return False


def list_files(directory: Path, kind: str) -> list[Path]:
    """Return the heartbeat files of a kind, in the order of their names."""
    return sorted(directory.glob(f"{kind}.*.json"))


def read_heartbeat(file: Path) -> Heartbeat:
    """Read one file. Raises HeartbeatError if it is not a heartbeat, FileNotFoundError, and OSError as `open` does."""
    content, modified_at = _read_regular(file)
    try:
        return _parse(file, json.loads(content, parse_constant=_refuse_constant), modified_at)
    except RecursionError:
        raise HeartbeatError("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:
        raise HeartbeatError(printable(str(error))) from None


def printable(text: str) -> str:
    """Return a text of a file as one bounded line."""
    bounded = text if len(text) <= _TEXT_LENGTH_MAX else f"{text[:_TEXT_LENGTH_MAX]}..."
    return "".join(each if each.isprintable() else "?" for each in bounded)


def _readable(file: Path) -> Heartbeat | None:
    try:
        return read_heartbeat(file)
    except (OSError, HeartbeatError):
        return None


def _read_regular(file: Path) -> tuple[bytes, float]:
    """Return the content of a file and the Unix time of its last change; a pipe would be waited for."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise HeartbeatError("it is not a regular file")
        content = os.read(descriptor, _BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(content) > _BYTES_MAX:
        raise HeartbeatError(f"it is larger than {_BYTES_MAX} bytes")
    return content, found.st_mtime


def _refuse_constant(text: str) -> None:
    raise HeartbeatError(f"{text} is not a number of JSON")


def _parse(file: Path, document: Any, modified_at: float) -> Heartbeat:
    if not isinstance(document, dict):
        raise HeartbeatError(f"must be an object (got {type(document).__name__})")
    pid, boot = _integer(document, "pid"), _text(document, "boot")
    if pid is None:
        raise HeartbeatError("pid: is missing")
    if boot not in (None, _boot()):
        presence = Presence.GONE  # it was of before this machine started
    elif _text(document, "namespace") not in (None, _namespace()):
        presence = Presence.UNKNOWN
    else:
        presence = _find(pid, _integer(document, "started"))
    beat_at, busy_until = _number(document, "beat_at"), _number(document, "busy_until")
    age = time.time() - modified_at if beat_at is None else time.monotonic() - beat_at
    if busy_until is not None and beat_at is not None:
        age = min(age, max(0, time.monotonic() - min(busy_until, beat_at + _BUSY_SECONDS_MAX)))
    queues = _list(document, "queues")
    return Heartbeat(
        file=file,
        name=_text(document, "name") or file.stem.partition(".")[2],
        queues=None if queues is None else tuple(str(each) for each in queues),
        pid=pid,
        presence=presence,
        beat_at=time.monotonic() - age if beat_at is None else beat_at,
        age=age if age >= 0 or beat_at is None else inf,
        due_at=_number(document, "due_at"),
        sent_at=_number(document, "sent_at"),
        broker=_address(document.get("broker") or None, "broker"),
        database=_addresses(document),
        troubles=tuple(_trouble(each) for each in _list(document, "troubles") or ()),
    )


def _integer(document: Mapping[str, Any], key: str) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 < value < 1 << 63:
        raise HeartbeatError(f"{key}: must be a whole number above 0 (got {value!r:.40})")
    return value


def _number(document: Mapping[str, Any], key: str) -> float | None:
    value = document.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not isfinite(value):
        raise HeartbeatError(f"{key}: must be a number (got {value!r:.40})")
    return float(value)


def _text(document: Mapping[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise HeartbeatError(f"{key}: must be a text (got {value!r:.40})")
    return value


def _list(document: Mapping[str, Any], key: str) -> list[Any] | None:
    value = document.get(key)
    if value is not None and not isinstance(value, list):
        raise HeartbeatError(f"{key}: must be a list (got {value!r:.40})")
    return value


def _addresses(document: Mapping[str, Any]) -> tuple[Address, ...]:
    found = (_address(each, "database") for each in (_list(document, "database") or [])[:_ADDRESSES_MAX])
    return tuple(each for each in found if each is not None)


def _address(value: Any, key: str) -> Address | None:
    match value:
        case None:
            return None
        case [str() as host, int() as port] if type(port) is int and 0 <= port <= _PORT_MAX and "\0" not in host:
            return Address(host, port)
    raise HeartbeatError(f"{key}: must be a host and a port (got {value!r:.40})")


def _trouble(value: Any) -> Trouble:
    match value:
        case [str() as text, int() | float() as seconds] if type(seconds) is not bool and isfinite(seconds):
            return Trouble(text, float(seconds))
    raise HeartbeatError(f"troubles: must be a text and seconds (got {value!r:.40})")


def _own_file(directory: Path, kind: str, name: str) -> Path:
    namespace = "".join(filter(str.isdigit, _namespace() or ""))
    process = f"{os.getpid()}-{namespace}-{_read_start(os.getpid()) or ''}"
    return directory / f"{kind}.{quote(name, safe=_NAME_SAFE)[:150]}.{process}.json"


def _find(pid: int, started: int | None) -> Presence:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return Presence.GONE
    except PermissionError:
        pass
    if _is_ended(pid):
        return Presence.GONE
    now = _read_start(pid)
    return Presence.GONE if None not in (now, started) and now != started else Presence.THERE


def _read_start(pid: int) -> int | None:
    """Return when a process began, in ticks since the machine started; None if the system does not show it."""
    fields = _read_state(pid)
    return int(fields[19]) if fields else None


def _is_ended(pid: int) -> bool:
    """Return True if the process has ended and its parent has not asked how."""
    fields = _read_state(pid)
    return bool(fields) and fields[0] in {"Z", "X"}


def _read_state(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third on: the second, its command, may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


@cache
def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


@cache
def _namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None
