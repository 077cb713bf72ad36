"""The error answers that a Redis may give while it runs and can be reached: each for a block."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import redis
from redis.exceptions import RedisError

from tests.worker.workers import wait_until
from usage_tasks.embedded.processes import free_port

FOREVER: Final = "while true do end"
Fault = Callable[["redis.Redis", Path], AbstractContextManager[None]]
"""Takes a client with one connection, which is open and stays so, and the server's directory."""


@contextmanager
def configured(client: "redis.Redis", **values: object) -> Iterator[None]:
    """Settings of Redis."""
    before: dict[str, Any] = {}
    for name, value in ((name.replace("_", "-"), value) for name, value in values.items()):
        held: Any = client.config_get(name)
        before[name] = held[name]
        client.config_set(name, str(value))
    try:
        yield
    finally:
        for name, value in before.items():
            client.config_set(name, value)


@contextmanager
def replica(client: "redis.Redis", _: Path) -> Iterator[None]:
    """READONLY, and UNBLOCKED for a client that waits."""
    client.replicaof("127.0.0.1", str(free_port()))
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@contextmanager
def master_down(client: "redis.Redis", directory: Path) -> Iterator[None]:
    """MASTERDOWN."""
    with configured(client, replica_serve_stale_data="no"), replica(client, directory):
        yield


def no_replicas(client: "redis.Redis", _: Path) -> AbstractContextManager[None]:
    """NOREPLICAS."""
    return configured(client, min_replicas_to_write=1)


def memory_full(client: "redis.Redis", _: Path) -> AbstractContextManager[None]:
    """OOM, and EXECABORT."""
    return configured(client, maxmemory=1)


@contextmanager
def disk_full(client: "redis.Redis", directory: Path) -> Iterator[None]:
    """MISCONF: no snapshot can be written, for a directory stands where its file would be."""
    snapshot = directory / "dump.rdb"
    snapshot.unlink(missing_ok=True)
    (snapshot / "something").mkdir(parents=True)
    try:
        with configured(client, save="1000000 1"):
            _snapshot(client, "err")
            yield
    finally:
        (snapshot / "something").rmdir()
        snapshot.rmdir()
        _snapshot(client, "ok")


def _snapshot(client: "redis.Redis", status: str) -> None:
    client.bgsave()

    def ended() -> bool:
        shown: Any = client.info("persistence")
        return bool(shown["rdb_last_bgsave_status"] == status)

    wait_until(ended)


@contextmanager
def script_blocks(client: "redis.Redis", _: Path) -> Iterator[None]:
    """BUSY."""
    address = client.connection_pool.connection_kwargs
    other = redis.Redis(host=address["host"], port=address["port"], socket_timeout=60)

    def block() -> None:
        with suppress(RedisError):
            other.eval(FOREVER, 0)

    def killed() -> bool:
        with suppress(RedisError):
            client.script_kill()
        return not thread.is_alive()

    with configured(client, busy_reply_threshold=100):
        thread = threading.Thread(target=block)
        thread.start()
        try:
            yield
        finally:
            wait_until(killed)


@contextmanager
def password_rotated(client: "redis.Redis", _: Path) -> Iterator[None]:
    """NOAUTH."""
    _restrict(client, "resetpass", ">rotated")
    _disconnect_others(client)
    try:
        yield
    finally:
        _restrict(client, "nopass")


@contextmanager
def narrow_permissions(client: "redis.Redis", _: Path) -> Iterator[None]:
    """NOPERM, for what no probe does."""
    _restrict(client, "-brpop", "-psubscribe")
    try:
        yield
    finally:
        _restrict(client, "+@all")


@contextmanager
def too_many_clients(client: "redis.Redis", _: Path) -> Iterator[None]:
    """ERR max number of clients reached."""
    with configured(client, maxclients=1):
        _disconnect_others(client)
        yield


def _restrict(client: Any, *rules: str) -> None:
    client.execute_command("ACL", "SETUSER", "default", *rules)


def _disconnect_others(client: "redis.Redis") -> None:
    for kind in ("normal", "pubsub"):
        client.client_kill_filter(_type=kind, skipme=True)


FAULTS: Final[list[Fault]] = [
    replica,
    master_down,
    no_replicas,
    memory_full,
    disk_full,
    script_blocks,
    password_rotated,
    narrow_permissions,
    too_many_clients,
]
