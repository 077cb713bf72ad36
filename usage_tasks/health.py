"""`usage-tasks health`: is a process of this machine alive, is it ready? Cheap enough for probes: imports no library.

A worker and a beat write a heartbeat file every few seconds, in the directory that USAGE_HEARTBEAT_DIR names. A worker
writes it from the loop that takes messages, so that it grows old while the broker is away. Its age is counted by the
machine's monotonic clock, which no jump of the other one moves.

    usage-tasks health worker|beat|webhook|all [--live]

Ready: a heartbeat of the last 15 s, nothing has stood still for more than 30 s, and the database answers a worker; the
receiver answers, and its broker does. Live (`--live`), for whatever restarts a process: its process exists, is silent
or stands still for no more than 2 minutes, or the broker does not answer, which a restart does not mend; the receiver
answers.
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
from typing import Final

from usage_tasks.heartbeats import DIRECTORY_VARIABLE as DIRECTORY_VARIABLE  # noqa: PLC0414 - found here by others
from usage_tasks.heartbeats import (
    SILENCE_SECONDS_MAX,
    Address,
    Heartbeat,
    HeartbeatError,
    Presence,
    Trouble,
    list_files,
    printable,
    read_heartbeat,
)
from usage_tasks.heartbeats import write_heartbeat as write_heartbeat  # noqa: PLC0414 - as above

READY_SECONDS_MAX: Final = SILENCE_SECONDS_MAX
STALLED_SECONDS_MAX: Final = 30
LIVE_SECONDS_MAX: Final = 120
PROBE_SECONDS: Final = 2
KINDS: Final = ("worker", "beat", "webhook", "all")
_USAGE_ERROR: Final = 2
_RECEIVER_SECONDS: Final = 7
"""The receiver asks its broker for up to 5 s."""

_PING: Final = b"PING\r\n"
_LOADING: Final = b"-LOADING"
_SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""PostgreSQL's own question before anything else: it answers with one letter, and logs nothing."""


class Peers:
    """Whether brokers and databases answer: each is asked once."""

    def __init__(self) -> None:
        self._answers: dict[tuple[Address, bytes], bytes] = {}

    def has_broker(self, address: Address) -> bool:
        """Return True if a broker answers, whatever it does; False while it reads its data from the disk."""
        answer = self._ask(address, _PING)
        return bool(answer) and not answer.startswith(_LOADING)

    def has_database(self, addresses: Sequence[Address]) -> bool:
        """Return True if one of the hosts answers as PostgreSQL does, or a pooler in front of it."""
        return any(self._ask(each, _SSL_REQUEST) for each in addresses)

    def _ask(self, address: Address, question: bytes) -> bytes:
        if (address, question) not in self._answers:
            self._answers[address, question] = _answer(address, question)
        return self._answers[address, question]


def _answer(address: Address, question: bytes) -> bytes:
    """Return the beginning of an answer; empty if there is none within 2 s. An alert of TLS is an answer."""
    try:
        with _connect(address) as connection:
            connection.sendall(question)
            return connection.recv(64) or b"closed"
    except ConnectionResetError:
        return b"closed"
    except (OSError, ValueError):  # the second of a name that is none
        return b""


def _connect(address: Address) -> socket.socket:
    if not address.host.startswith("/"):
        return socket.create_connection(address, timeout=PROBE_SECONDS)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PROBE_SECONDS)
    try:
        connection.connect(address.host)
    except BaseException:
        connection.close()
        raise
    return connection


def check_heartbeats(directory: Path, kind: str, *, live: bool) -> list[tuple[str, str | None]]:
    """Return each process of a kind, by its name, queues and pid, with what is wrong with it, if anything."""
    peers = Peers()
    found: list[tuple[str, str | None]] = []
    for file in list_files(directory, kind):
        try:
            heartbeat = read_heartbeat(file)
        except FileNotFoundError:  # its process has just ended
            continue
        except (OSError, HeartbeatError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            found.append(
                (printable(file.stem), f"its heartbeat cannot be read: {reason}; remove {printable(str(file))}")
            )
        else:
            found.append((_describe(kind, heartbeat), _judge(heartbeat, peers, live=live)))
    return found


def _describe(kind: str, heartbeat: Heartbeat) -> str:
    queues = f"queues {','.join(heartbeat.queues)}, " if heartbeat.queues else ""
    return printable(f"{kind}.{heartbeat.name} ({queues}pid {heartbeat.pid})")


def _judge(heartbeat: Heartbeat, peers: Peers, *, live: bool) -> str | None:
    if heartbeat.presence is Presence.GONE:
        before = isinf(heartbeat.age)
        gone = "its last heartbeat is of before this machine started" if before else f"process {heartbeat.pid} is gone"
        return f"{gone}: start it again, or remove {printable(str(heartbeat.file))}"
    fault = _find_fault(heartbeat, live=live)
    if live:
        away = fault and heartbeat.broker is not None and not peers.has_broker(heartbeat.broker)
        return None if away else fault
    if fault is None and heartbeat.database and not peers.has_database(heartbeat.database):
        hosts = ", ".join(f"{host}:{port}" for host, port in heartbeat.database)
        return printable(f"the database does not answer ({hosts}): start it, or correct database.url")
    return fault


def _find_fault(heartbeat: Heartbeat, *, live: bool) -> str | None:
    if heartbeat.age > (LIVE_SECONDS_MAX if live else READY_SECONDS_MAX):
        return (
            "its last heartbeat is of before this machine started: start it again"
            if isinf(heartbeat.age)
            else f"its last heartbeat is {heartbeat.age:.0f} s old: is its broker there? else restart it"
        )
    troubles = [*heartbeat.troubles, *_late_tick(heartbeat)]
    worst = max(troubles, key=lambda each: each.seconds, default=None)
    if worst is None or worst.seconds <= (LIVE_SECONDS_MAX if live else STALLED_SECONDS_MAX):
        return None
    return f"for {worst.seconds:.0f} s {printable(worst.text)}"


def _late_tick(heartbeat: Heartbeat) -> list[Trouble]:
    """Return the trouble of a beat that has not sent a tick that is due."""
    if heartbeat.due_at is None:
        return []
    now = time.monotonic()
    last = "no tick yet" if heartbeat.sent_at is None else f"its last tick {now - heartbeat.sent_at:.0f} s ago"
    text = f"a tick has been due and is not sent ({last}): see its log, and whether the broker takes messages"
    return [Trouble(text, now - heartbeat.due_at)]


def check_webhook(environ: Mapping[str, str], *, live: bool = False) -> str | None:
    """Ask the receiver of this machine; return what is wrong with it, if anything.

    A receiver whose broker is away refuses events: it is alive, and not ready.
    """
    try:
        named = environ.get("USAGE_CONFIG")
        configured = json.loads(Path(named).read_text()).get("server", {}) if named else {}
        address = environ.get("USAGE_SERVER__ADDRESS", configured.get("address", "127.0.0.1"))
        port = int(environ.get("USAGE_SERVER__PORT", configured.get("port", 3000)))
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - compared, not bound
        connection = http.client.HTTPConnection(host, port, timeout=PROBE_SECONDS if live else _RECEIVER_SECONDS)
        connection.request("GET", "/healthz" if live else "/readyz")
        answer = connection.getresponse()
        status, text = answer.status, answer.read(100).decode(errors="replace").strip()
        connection.close()
    except (OSError, ValueError, TypeError, AttributeError, http.client.HTTPException) as error:
        return printable(f"no answer: {error}")
    return None if status == http.client.OK else f"it answers {status}: {printable(text)}"


def check(kind: str, environ: Mapping[str, str], *, live: bool) -> list[tuple[str, str | None]]:
    """Return everything of a kind, or of all kinds, with what is wrong with it; a kind that is not there is wrong."""
    found: list[tuple[str, str | None]] = []
    for each in KINDS[:2] if kind == "all" else (kind,):
        if each == "webhook":
            continue
        named = environ.get(DIRECTORY_VARIABLE)
        of_kind = check_heartbeats(Path(named), each, live=live) if named else []
        found += of_kind or [(each, "no heartbeat" if named else f"{DIRECTORY_VARIABLE} is not set")]
    if kind in {"webhook", "all"}:
        found.append(("webhook", check_webhook(environ, live=live)))
    return found


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run `usage-tasks health`; return the exit code."""
    kinds = [argument for argument in arguments if argument != "--live"]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        sys.stderr.write(f"{__doc__}\n")
        return 0 if "--help" in arguments else _USAGE_ERROR
    found = check(kinds[0], environ, live="--live" in arguments)
    for name, problem in found:
        sys.stdout.write(f"{name}: {problem or 'ok'}\n")
    return 1 if any(problem for _, problem in found) else 0
