import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from tests.embedded.conftest import ROOT, Supervise, is_running, wait_until_gone
from usage_tasks.embedded.directory import PATH_BYTES_MAX, held_directory
from usage_tasks.embedded.postgres import running_postgres
from usage_tasks.embedded.processes import StartError, free_port
from usage_tasks.embedded.redis import running_redis
from usage_tasks.embedded.servers import running_servers

NOBODY_ID = 65534
SETTINGS = """SELECT current_database(), current_user, current_setting('TimeZone'), current_setting('max_connections'),
    current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes'),
    current_setting('listen_addresses'), current_setting('unix_socket_directories')"""


def test_a_fresh_start_answers_queries_with_the_promised_settings(directory: Path, environ: dict[str, str]) -> None:
    with running_servers(directory, environ) as servers:
        with psycopg.connect(servers.database_url) as connection:
            settings = connection.execute(SETTINGS).fetchone()
            assert settings == ("usage", "postgres", "UTC", "200", "off", "off", "off", "127.0.0.1", "")
        with redis.Redis.from_url(servers.redis_url) as client:
            wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
            assert {name: client.config_get(name)[name] for name in wanted} == wanted
    ports = [urlsplit(url).port or 0 for url in (servers.database_url, servers.redis_url)]
    wait_until_gone({"pids": [], "ports": ports})


def test_a_second_start_in_the_same_directory_finds_the_data(used_directory: Path, environ: dict[str, str]) -> None:
    with running_servers(used_directory, environ) as servers:
        with psycopg.connect(servers.database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        with redis.Redis.from_url(servers.redis_url) as client:
            client.set("kept", "8")
    with running_servers(used_directory, environ) as servers:
        with psycopg.connect(servers.database_url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.get("kept") == b"8"


def test_a_path_that_is_odd_and_as_long_as_allowed_works(directory: Path, environ: dict[str, str]) -> None:
    odd = directory.joinpath('it\'s "ä" b', *["x" * 200] * 3)
    rest = PATH_BYTES_MAX - len(os.fsencode(odd / "postgres")) - len("/")
    with running_servers(odd / ("y" * rest), environ) as servers:
        psycopg.connect(servers.database_url).close()


def test_an_exception_in_the_block_stops_both(used_directory: Path, environ: dict[str, str]) -> None:
    with pytest.raises(ZeroDivisionError), running_servers(used_directory, environ) as servers:
        raise ZeroDivisionError
    ports = [urlsplit(url).port or 0 for url in (servers.database_url, servers.redis_url)]
    wait_until_gone({"pids": [], "ports": ports})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_outlives_a_supervisor_that_is_ended(
    supervise: Supervise, used_directory: Path, environ: dict[str, str], number: signal.Signals
) -> None:
    supervisor, said = supervise(used_directory)
    assert len(said["pids"]) > 5
    supervisor.send_signal(number)
    supervisor.wait()
    # At once, while the orphans are still ending: the next start waits for them instead of failing.
    with running_servers(used_directory, environ) as servers:
        psycopg.connect(servers.database_url).close()
        wait_until_gone({"pids": said["pids"]})


def test_nothing_outlives_a_supervisor_that_gets_ctrl_c(supervise: Supervise, used_directory: Path) -> None:
    supervisor, said = supervise(used_directory)
    os.killpg(supervisor.pid, signal.SIGINT)
    assert supervisor.wait() == -signal.SIGINT
    assert not [pid for pid in said["pids"] if is_running(pid)]
    wait_until_gone(said)


def test_given_urls_are_used_and_nothing_is_started(directory: Path, environ: dict[str, str]) -> None:
    environ |= {"DATABASE_URL": "postgresql://db.example/usage", "REDIS_URL": "redis://cache.example/3"}
    with running_servers(directory, environ) as servers:
        assert (servers.database_url, servers.redis_url) == (environ["DATABASE_URL"], environ["REDIS_URL"])
    assert list(directory.iterdir()) == []


def test_only_the_missing_server_is_started(directory: Path, environ: dict[str, str]) -> None:
    environ["DATABASE_URL"] = "postgresql://db.example/usage"
    with running_servers(directory, environ) as servers:
        assert servers.database_url == environ["DATABASE_URL"]
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.ping()
    assert [path.name for path in directory.iterdir()] == ["redis"]


def test_the_same_directory_twice_is_an_error_that_names_the_process(
    used_directory: Path, environ: dict[str, str]
) -> None:
    with running_servers(used_directory, environ) as servers:
        for running, name in ((running_postgres, "postgres"), (running_redis, "redis")):
            message = f"already runs in {used_directory / name}, started by process {os.getpid()}"
            with pytest.raises(StartError, match=message), running(used_directory / name, environ):
                pass
        psycopg.connect(servers.database_url).close()


def test_two_directories_side_by_side_do_not_disturb_each_other(
    used_directory: Path, directory: Path, environ: dict[str, str]
) -> None:
    with running_servers(used_directory, environ) as first:
        with running_servers(directory, environ) as second, psycopg.connect(second.database_url) as connection:
            connection.execute("CREATE TABLE only_there ()")
        with psycopg.connect(first.database_url) as connection:
            assert connection.execute("SELECT to_regclass('only_there')").fetchone() == (None,)


def test_a_stale_pid_file_whose_id_is_in_use_again_does_not_prevent_a_start(
    used_directory: Path, environ: dict[str, str]
) -> None:
    cluster = used_directory / "postgres"
    pid_file = cluster / "data/postmaster.pid"
    with running_postgres(cluster, environ):
        lines = pid_file.read_text().split("\n")
        owner = pid_file.stat()
    pid_file.write_text("\n".join([str(os.getppid()), *lines[1:]]))
    os.chown(pid_file, owner.st_uid, owner.st_gid)
    with running_postgres(cluster, environ) as url:
        psycopg.connect(url).close()


def test_a_postgres_that_was_started_by_hand_is_not_disturbed(used_directory: Path, environ: dict[str, str]) -> None:
    cluster = used_directory / "postgres"
    with running_postgres(cluster, environ) as url:
        # Without our lock, as if it were not ours.
        (cluster / "lock").unlink()
        message = "A PostgreSQL that was not started from here runs in"
        with pytest.raises(StartError, match=message), running_postgres(cluster, environ):
            pass
        psycopg.connect(url).close()


def test_an_unfinished_initdb_does_not_prevent_a_start(directory: Path, environ: dict[str, str]) -> None:
    unfinished = directory / "data.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    with running_postgres(directory, environ) as url:
        psycopg.connect(url).close()


def test_a_port_taken_between_asking_and_binding_is_replaced(
    used_directory: Path, directory: Path, environ: dict[str, str]
) -> None:
    with running_redis(directory, environ) as rival_url:
        taken = urlsplit(rival_url).port or 0
        for running, name in ((running_postgres, "postgres"), (running_redis, "redis")):
            ports = iter([taken, free_port()])
            with running(used_directory / name, environ, ports=ports.__next__) as url:
                assert urlsplit(url).port not in {taken, None}


@pytest.mark.parametrize("name", ["REDIS_SERVER", "PG_BINDIR"])
def test_a_missing_binary_is_an_error_that_names_the_variable(
    directory: Path, environ: dict[str, str], name: str
) -> None:
    environ[name] = str(directory / "missing")
    with (
        pytest.raises(StartError, match=rf"{name}={directory}/missing .*(?s:.*)pip install"),
        running_servers(directory, environ),
    ):
        pass


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(directory: Path, environ: dict[str, str]) -> None:
    (directory / "file").write_text("")
    with (
        pytest.raises(StartError, match=f"cannot keep its data in {directory}/file/redis: Not a directory"),
        running_servers(directory / "file", environ),
    ):
        pass


def test_a_path_that_is_too_long_is_an_error_that_says_so(directory: Path, environ: dict[str, str]) -> None:
    long = directory.joinpath(*["x" * 200] * 5)
    with pytest.raises(StartError, match="path of more than 900 bytes"), running_servers(long, environ):
        pass


def test_data_of_another_redis_is_an_error_that_says_what_to_do(directory: Path, environ: dict[str, str]) -> None:
    with running_redis(directory, environ) as url, redis.Redis.from_url(url) as client:
        client.set("kept", "8")
    (base,) = directory.glob("appendonlydir/*.base.rdb")
    # The version follows the magic word: VALKEY080, or REDIS0011.
    content = base.read_bytes()
    base.write_bytes(content[:6] + b"999" + content[9:] if content.startswith(b"V") else b"REDIS9999" + content[9:])
    with pytest.raises(StartError, match="Redis 7 cannot read the append-only file"), running_redis(directory, environ):
        pass


def test_data_of_another_postgres_is_an_error_that_says_what_to_do(
    used_directory: Path, environ: dict[str, str]
) -> None:
    cluster = used_directory / "postgres"
    version_file = cluster / "data/PG_VERSION"
    version = version_file.read_text()
    version_file.write_text("9\n")
    message = rf"not compatible(?s:.*)delete {cluster}"
    try:
        with pytest.raises(StartError, match=message), running_postgres(cluster, environ):
            pass
    finally:
        version_file.write_text(version)


def test_a_lock_outlives_its_supervisor_as_long_as_a_process_has_it(directory: Path) -> None:
    with held_directory(directory, name="X") as lock:
        holder = subprocess.Popen(["sleep", "0.4"], pass_fds=[lock])
    # The remains of a killed supervisor: its id, which no process has any more, and a server that is ending.
    ended = subprocess.Popen(["true"])
    ended.wait()
    (directory / "lock").write_text(str(ended.pid))
    with held_directory(directory, name="X"):
        assert holder.wait(0.1) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; as another, every test shows it")
def test_an_ordinary_user_can_run_both(supervise: Supervise, directory: Path) -> None:
    os.chown(directory, NOBODY_ID, NOBODY_ID)
    supervisor, said = supervise(directory, python=python_of_everyone(), user=NOBODY_ID)
    assert (directory / "postgres/data").stat().st_uid == NOBODY_ID
    supervisor.kill()
    supervisor.wait()
    wait_until_gone(said)


def python_of_everyone() -> str:
    """This interpreter, or the machine's own of the same version when this one lies in a home that is closed."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import usage_tasks.embedded.launch"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            subprocess.run([python, "-c", code], user=NOBODY_ID, group=NOBODY_ID, extra_groups=[], check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return pytest.skip(f"uid {NOBODY_ID} may not run {sys.executable}, nor is there one in /usr/bin")
