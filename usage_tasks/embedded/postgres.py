"""A PostgreSQL server in a directory of its own."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psycopg

from usage_tasks.embedded.binaries import find_postgres_directory
from usage_tasks.embedded.directory import held_directory
from usage_tasks.embedded.launch import NOBODY_ID
from usage_tasks.embedded.processes import (
    LINUX,
    Identity,
    StartError,
    child_process,
    enter_on_free_port,
    free_port,
    is_alive,
    log_tail,
    wait_for_end,
)

DATABASE: Final = "usage"
ONE_SHOT_SECONDS_MAX: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cluster:
    """One data directory, and what every process that touches it must be given."""

    binaries: Path
    directory: Path
    environment: Mapping[str, str]
    identity: Identity
    lock: int

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"


@contextmanager
def running_postgres(
    directory: Path, environ: Mapping[str, str], *, ports: Callable[[], int] = free_port
) -> Iterator[str]:
    """Run a server on a loopback port with its data in `directory`; yield the URL of the database `usage`.

    Durability is off for speed and everyone on the machine is trusted: for demo and tests only. Data survives the
    server, also a killed one, but not a crash of the machine. As root it runs in a user namespace, or where that is
    not allowed as uid 65534, because PostgreSQL refuses root. Raises StartError.
    """
    binaries = find_postgres_directory(environ)
    directory = directory.absolute()
    with held_directory(directory, name="PostgreSQL") as lock, ExitStack() as stack:
        # PGDATA, PGPORT and the like are settings to the server too.
        environment = {key: value for key, value in environ.items() if not key.startswith("PG")} | {"LC_ALL": "C"}
        cluster = _as_permitted(
            _Cluster(binaries=binaries, directory=directory, environment=environment, identity=Identity.SAME, lock=lock)
        )
        if cluster.data.exists():
            _remove_stale_pid_file(cluster)
        else:
            _make_data(cluster)
        port = enter_on_free_port(stack, lambda port: _server(cluster, port), ports=ports)
        _make_database(cluster, port)
        yield f"postgresql://postgres@127.0.0.1:{port}/{DATABASE}"


def _server(cluster: _Cluster, port: int) -> AbstractContextManager[object]:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "max_connections": "200",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # Speed instead of durability: no real money is in here.
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        # As a server of its own would have: memory is taken as it is used.
        "shared_buffers": "512MB",
        "max_wal_size": "4GB",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return child_process(
        [str(cluster.binaries / "postgres"), "-D", str(cluster.data), *options],
        name=f"PostgreSQL ({cluster.binaries})",
        log=cluster.log,
        environment=cluster.environment,
        ready=lambda: _says_ready(cluster),
        # The fast shutdown: SIGTERM would wait for every client to leave.
        stop_signal=signal.SIGINT,
        orphan_signal=signal.SIGINT,
        advise=lambda _output: _advice(cluster),
        identity=cluster.identity,
        keep_open=[cluster.lock],
    )


def _says_ready(cluster: _Cluster) -> bool:
    # The server's own word, in our directory: on the port another's might answer.
    try:
        return cluster.pid_file.read_text().rstrip().endswith("ready")
    except FileNotFoundError:
        return False


def _make_data(cluster: _Cluster) -> None:
    # Made aside and renamed, so that a killed initdb never leaves something that looks like data.
    unfinished = cluster.directory / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    options = [
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--no-locale",
        "--no-sync",
        "--no-instructions",
    ]
    if _run(cluster, "initdb", "-D", str(unfinished), *options) != 0:
        problem = f"PostgreSQL's initdb failed in {cluster.directory} (log: {cluster.log})."
        raise StartError(problem, output=log_tail(cluster.log), advice=_advice(cluster))
    unfinished.rename(cluster.data)


def _make_database(cluster: _Cluster, port: int) -> None:
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(f'CREATE DATABASE "{DATABASE}"')
    except psycopg.Error as error:
        problem = f"PostgreSQL runs, but database {DATABASE} could not be made: {error}"
        raise StartError(problem, output=log_tail(cluster.log), advice=_advice(cluster)) from error


def _remove_stale_pid_file(cluster: _Cluster) -> None:
    """Remove what a killed server left: PostgreSQL would refuse to start if its process id is in use again."""
    try:
        pid = int(cluster.pid_file.read_text().split("\n", 1)[0])
    except FileNotFoundError:
        return
    except ValueError:
        pid = 0
    # We hold the lock, so it is no server of ours; a person may have started it by hand.
    if pid > 0 and is_alive(pid) and "postgres" in _command_of(pid):
        problem = f"A PostgreSQL that was not started from here runs in {cluster.data}, process {pid}."
        raise StartError(problem, advice=f"Stop process {pid}, or choose another directory.")
    cluster.pid_file.unlink()


def _command_of(pid: int) -> str:
    if LINUX:
        try:
            return Path(f"/proc/{pid}/comm").read_text()
        except OSError:
            return ""
    return subprocess.run(  # noqa: S603  # a number and constants
        ["/bin/ps", "-o", "comm=", "-p", str(pid)], check=False, capture_output=True, text=True
    ).stdout


def _as_permitted(cluster: _Cluster) -> _Cluster:
    """Choose the identity under which PostgreSQL runs here: the binary is tried, because every sandbox differs."""
    if os.geteuid() != 0:
        return cluster
    for identity in (Identity.NAMESPACE, Identity.NOBODY) if LINUX else (Identity.NOBODY,):
        cluster = replace(cluster, identity=identity)
        if identity is Identity.NOBODY:
            for path in (cluster.directory, *cluster.directory.rglob("*")):
                os.chown(path, NOBODY_ID, NOBODY_ID, follow_symlinks=False)
        if _run(cluster, "postgres", "--version") == 0:
            return cluster
    problem = f"PostgreSQL refuses to run as root, and no other user can run {cluster.binaries}/postgres."
    advice = (
        f"Run this as an ordinary user, or move what is at {cluster.binaries} out of a home that only root may enter."
    )
    raise StartError(problem, output=log_tail(cluster.log), advice=advice)


def _run(cluster: _Cluster, program: str, *arguments: str) -> int:
    """Run one of PostgreSQL's programs to its end; return its exit status."""
    with child_process(
        [str(cluster.binaries / program), *arguments],
        name=program,
        log=cluster.log,
        environment=cluster.environment,
        stop_signal=signal.SIGKILL,
        identity=cluster.identity,
        keep_open=[cluster.lock],
    ) as process:
        status = wait_for_end(process, seconds_max=ONE_SHOT_SECONDS_MAX)
        if status is None:
            problem = f"{program} did not end within {ONE_SHOT_SECONDS_MAX} s (log: {cluster.log})."
            raise StartError(problem, output=log_tail(cluster.log), advice=_advice(cluster))
        return status


def _advice(cluster: _Cluster) -> str:
    advice = f"If the data was made by another version or another user, delete {cluster.directory}"
    if cluster.identity is not Identity.SAME:
        advice += "; or, since PostgreSQL may not run as root, choose a directory that other users can reach"
    return f"{advice}; or use a server of your own by DATABASE_URL."
