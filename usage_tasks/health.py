"""`usage-tasks health`: is a process of this machine alive, is it ready? Cheap enough for probes: imports no library.

A worker and a beat write a heartbeat file every few seconds, in the directory that USAGE_HEARTBEAT_DIR names. A worker
writes it from the loop that takes messages, so that it grows old while the broker is away. Its age is counted by the
machine's monotonic clock, which no jump of the other one moves.

    usage-tasks health worker|beat|webhook|all [--live]

Ready: a heartbeat of the last 15 s; the receiver answers. Live (`--live`), for what restarts a process: its process
exists, and its heartbeat is younger than 2 minutes or the broker is out of reach, which a restart would not mend.
Exit codes: 0 all that was asked for is so, 1 something is not or nothing was found, 2 wrong usage.
"""

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from math import isinf
from pathlib import Path
from typing import Any, Final

DIRECTORY_VARIABLE: Final = "USAGE_HEARTBEAT_DIR"
BEAT_SECONDS: Final = 5
READY_SECONDS_MAX: Final = 15
LIVE_SECONDS_MAX: Final = 120
PROBE_SECONDS: Final = 2
KINDS: Final = ("worker", "beat", "webhook", "all")
_USAGE_ERROR: Final = 2


def write_heartbeat(directory: Path, kind: str, name: str, *, broker: Sequence[object]) -> None:
    """Say that this process lives and works; `broker` is the host and port that it depends on."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{kind}.{name}.json"
    fresh = file.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps({"pid": os.getpid(), "broker": list(broker), "beat_at": time.monotonic()}))
    fresh.replace(file)


def remove_heartbeat(directory: Path, kind: str, name: str) -> None:
    """Say that this process has ended in order."""
    (directory / f"{kind}.{name}.json").unlink(missing_ok=True)


def check_heartbeats(directory: Path, kind: str, *, live: bool) -> list[tuple[str, str | None]]:
    """Answer each process of a kind with what is wrong with it, if anything."""
    return [(file.stem, _judge(file, live=live)) for file in sorted(directory.glob(f"{kind}.*.json"))]


def _judge(file: Path, *, live: bool) -> str | None:
    try:
        heartbeat = json.loads(file.read_text())
        age = _age(heartbeat, file)
    except (OSError, ValueError, TypeError) as error:
        return f"its heartbeat cannot be read: {error}"
    if not _exists(heartbeat["pid"]):
        return f"process {heartbeat['pid']} is gone"
    if age <= (LIVE_SECONDS_MAX if live else READY_SECONDS_MAX):
        return None
    if live and not _reaches(heartbeat["broker"]):
        return None
    return (
        "its last heartbeat is of before this machine started"
        if isinf(age)
        else f"its last heartbeat is {age:.0f} s old"
    )


def _age(heartbeat: Mapping[str, Any], file: Path) -> float:
    """Return the age of a heartbeat in seconds, by the machine's monotonic clock: a jump of its clock is no silence.

    A heartbeat later than that clock shows is of before the machine was started: as old as can be. A process of an
    earlier version writes none, and its file's time counts.
    """
    if "beat_at" not in heartbeat:
        return time.time() - file.stat().st_mtime
    age = time.monotonic() - float(heartbeat["beat_at"])
    return age if age >= 0 else float("inf")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _reaches(broker: Sequence[Any]) -> bool:
    try:
        socket.create_connection((str(broker[0]), int(broker[1])), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def check_webhook(environ: Mapping[str, str]) -> str | None:
    """Ask the receiver of this machine; answer what is wrong with it, if anything."""
    try:
        named = environ.get("USAGE_CONFIG")
        configured = json.loads(Path(named).read_text()).get("server", {}) if named else {}
        address = environ.get("USAGE_SERVER__ADDRESS", configured.get("address", "127.0.0.1"))
        port = int(environ.get("USAGE_SERVER__PORT", configured.get("port", 3000)))
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - compared, not bound
        connection = http.client.HTTPConnection(host, port, timeout=PROBE_SECONDS)
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
        connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    return None if status == http.client.OK else f"it answers {status}"


def check(kind: str, environ: Mapping[str, str], *, live: bool) -> list[tuple[str, str | None]]:
    """Answer everything of a kind, or of all kinds, with what is wrong with it; a kind that is not there is wrong."""
    found: list[tuple[str, str | None]] = []
    for each in KINDS[:2] if kind == "all" else (kind,):
        if each == "webhook":
            continue
        named = environ.get(DIRECTORY_VARIABLE)
        of_kind = check_heartbeats(Path(named), each, live=live) if named else []
        found += of_kind or [(each, "no heartbeat" if named else f"{DIRECTORY_VARIABLE} is not set")]
    if kind in {"webhook", "all"}:
        found.append(("webhook", check_webhook(environ)))
    return found


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run `usage-tasks health`; answer the exit code."""
    kinds = [argument for argument in arguments if argument != "--live"]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        sys.stderr.write(f"{__doc__}\n")
        return 0 if "--help" in arguments else _USAGE_ERROR
    found = check(kinds[0], environ, live="--live" in arguments)
    for name, problem in found:
        sys.stdout.write(f"{name}: {problem or 'ok'}\n")
    return 1 if any(problem for _, problem in found) else 0
