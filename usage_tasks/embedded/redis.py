"""A Valkey (or Redis) server in a directory of its own."""

import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from usage_tasks.embedded.binaries import find_redis_server
from usage_tasks.embedded.directory import held_directory
from usage_tasks.embedded.processes import child_process, enter_on_free_port, free_port


@contextmanager
def running_redis(
    directory: Path, environ: Mapping[str, str], *, ports: Callable[[], int] = free_port
) -> Iterator[str]:
    """Run a server on a loopback port with its data in `directory`; yield its URL.

    Everyone on the machine may connect. Written data survives the server, up to the last second before a kill.
    Raises StartError.
    """
    binary = find_redis_server(environ)
    directory = directory.absolute()
    with held_directory(directory, name="Redis") as lock, ExitStack() as stack:

        def start(port: int) -> AbstractContextManager[object]:
            return child_process(
                [str(binary), *_settings(directory, port)],
                name=f"Redis ({binary})",
                log=directory / "log",
                environment=environ,
                # Not SIGKILL: what was written since the last second is flushed.
                orphan_signal=signal.SIGTERM,
                ready=lambda: _is_ready(directory, port),
                advise=lambda output: _advice(output, directory),
                keep_open=[lock],
            )

        port = enter_on_free_port(stack, start, ports=ports)
        yield f"redis://127.0.0.1:{port}/0"


def _settings(directory: Path, port: int) -> list[str]:
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(directory),
        "daemonize": "no",
        # A queue is not a cache: nothing is evicted, and a restart loses a second at most.
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
    }
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def _is_ready(directory: Path, port: int) -> bool:
    """Does *our* server answer there, and has it loaded its data? Another may have been faster to take the port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\nCONFIG GET dir\r\nQUIT\r\n")
            with connection.makefile("rb") as answer:
                pong, config = answer.readline(), answer.read()
    except OSError:
        return False
    return pong == b"+PONG\r\n" and os.fsencode(directory.resolve()) in config.splitlines()


def _advice(output: str, directory: Path) -> str:
    if "RDB format version" in output or "append only file" in output.lower():
        return (
            f"The data in {directory} may be another server's: Redis 7 cannot read the append-only file of Valkey 9. "
            "Start the server that wrote it (REDIS_SERVER names one), or delete that directory."
        )
    return f"If the log does not say why: delete {directory}, or use a server of your own by REDIS_URL."
