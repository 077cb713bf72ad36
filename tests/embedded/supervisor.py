"""A supervisor to send signals to: starts the servers in a directory, prints the running processes, and waits.

Handles no signal itself, which is the hardest case. With a second argument it supervises one child that has a child.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from usage_tasks.embedded.processes import child_process
from usage_tasks.embedded.servers import Servers, running_servers

# One write a process: with PYTHONUNBUFFERED, `print` writes a number and its newline apart, and the two would mix.
FAMILY = "import os, signal; os.fork(); os.write(1, b'%d\\n' % os.getpid()); signal.pause()"


def supervise_servers(directory: Path) -> None:
    with running_servers(directory, os.environ) as servers:
        print(json.dumps(describe(servers, directory)), flush=True)  # noqa: T201
        wait()


def supervise_family(directory: Path, *, guarded: bool) -> None:
    log = directory / "log"
    with child_process(
        [sys.executable, "-c", FAMILY],
        name="family",
        log=log,
        ready=lambda: len(log.read_text().split()) == 2,
        guarded=guarded,
    ):
        print(json.dumps({"pids": [int(pid) for pid in log.read_text().split()]}), flush=True)  # noqa: T201
        wait()


def wait() -> None:
    """Wait for a signal. A signal just before `signal.pause` would not end that call."""
    while True:
        time.sleep(0.1)


def describe(servers: Servers, directory: Path) -> dict[str, object]:
    """Name every process of both servers, helpers included."""
    redis_port = urlsplit(servers.redis_url).port
    with socket.create_connection(("127.0.0.1", redis_port)) as connection:
        connection.sendall(b"INFO server\r\n")
        info = connection.recv(65536).decode().splitlines()
    pids = [int(line.split(":")[1]) for line in info if line.startswith("process_id:")]
    pids.append(int((directory / "postgres/data/postmaster.pid").read_text().split()[0]))
    with psycopg.connect(servers.database_url) as connection:
        pids += [pid for (pid,) in connection.execute("SELECT pid FROM pg_stat_activity")]
    ports = [urlsplit(url).port for url in (servers.database_url, servers.redis_url)]
    return {"pids": pids, "ports": ports}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    target = Path(sys.argv[1])
    if len(sys.argv) == 2:
        supervise_servers(target)
    else:
        supervise_family(target, guarded=sys.argv[2] == "guarded")
