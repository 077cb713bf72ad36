"""A worker, a beat and a receiver refuse the Redis of another installation."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.factories import START, session_row, team
from tests.installation.sides import BEAT, WORKER, advance_clock, make_app, run, usage_tasks
from tests.warm.start import launch
from tests.worker.workers import wait_until
from usage_tasks.client import Recorded, record
from usage_tasks.coordination.installation import ForeignRedisError, claim, find_holder
from usage_tasks.embedded.processes import child_process
from usage_tasks.runtime import Runtime
from usage_tasks.storage.engine import Database
from usage_tasks.storage.operations.installation import read_installation

pytestmark = pytest.mark.timeout(120)
ACTOR = "service:tests"


def start(stack: ExitStack, environment: dict[str, str], log: Path, command: tuple[str, ...] = WORKER) -> Any:
    process = stack.enter_context(
        child_process([sys.executable, *command], name="worker", log=log, environment=environment, launcher=launch)
    )
    words = " ready." if "worker" in command else "beat: Starting"
    wait_until(lambda: log.exists() and words in log.read_text())
    return process


def id_of(database: Database) -> str:
    with database.transaction() as connection:
        return read_installation(connection).installation_id


def count_sessions(database: Database) -> int:
    with database.transaction() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM workspace_instance").scalar_one())


def test_two_installations_with_two_prefixes_work_side_by_side_on_one_redis(
    rt: Runtime,
    environment: dict[str, str],
    other_environment: dict[str, str],
    other_database: Database,
    tmp_path: Path,
) -> None:
    sides = {"usage:": environment, "staging:": other_environment | {"USAGE_REDIS__PREFIX": "staging:"}}
    sides["staging:"]["USAGE_DEFAULT_SPENDING_LIMIT"] = '{"forTeams": 7, "forUsers": 7}'
    with ExitStack() as stack:
        for prefix, variables in sides.items():
            advance_clock(rt.redis, prefix, START)
            start(stack, variables, tmp_path / f"{prefix}.log")
        for prefix, limit in (("usage:", 500), ("staging:", 7)):
            app, asked = make_app(environment["REDIS_URL"], prefix), {"attribution_id": team(), "actor": ACTOR}
            answers = [
                app.send_task("usage.get_balance", kwargs=asked, queue="usage").get(timeout=30) for _ in range(10)
            ]
            assert [each["spending_limit"] for each in answers] == [limit] * 10
            sent = [record(app, [session_row()], actor=ACTOR, at=START) for _ in range(10)]
            assert sent == [Recorded(inserted=1)] * 10
            app.close()
    advance_clock(rt.redis, "usage:", START)
    assert (count_sessions(rt.database), count_sessions(other_database)) == (10, 10)
    keys: Any = rt.redis.keys("*")
    outside = [key for key in keys if not key.startswith((b"usage:", b"staging:"))]
    assert [key for key in outside if not key.startswith(b"_kombu")] == []


@pytest.mark.parametrize("command", [WORKER, BEAT], ids=["worker", "beat"])
def test_a_second_installation_on_the_same_prefix_does_not_start(
    rt: Runtime,
    environment: dict[str, str],
    other_environment: dict[str, str],
    other_database: Database,
    command: tuple[str, ...],
) -> None:
    assert usage_tasks("migrate", environment=environment).returncode == 0
    app = make_app(environment["REDIS_URL"], "usage:")
    app.send_task("usage.get_balance", kwargs={"attribution_id": team(), "actor": ACTOR}, queue="usage")
    ended = run(*command, environment=other_environment)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    (line,) = [each for each in ended.stderr.splitlines() if each.startswith("installation: ")]
    for named in (id_of(rt.database), id_of(other_database), environment["REDIS_URL"], "redis.prefix", "adopt"):
        assert named in line
    assert rt.redis.llen("usage:usage") == 1
    app.close()


def test_migrate_of_a_second_installation_names_both_and_leaves_the_first_one_in_redis(
    rt: Runtime, environment: dict[str, str], other_environment: dict[str, str], other_database: Database
) -> None:
    assert usage_tasks("migrate", environment=environment).returncode == 0
    ended = usage_tasks("migrate", environment=other_environment)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert id_of(rt.database) in ended.stderr
    assert id_of(other_database) in ended.stderr
    assert (find_holder(rt.redis) or "").startswith(id_of(rt.database))


def test_migrate_goes_on_without_redis(environment: dict[str, str], rt: Runtime) -> None:
    ended = usage_tasks(
        "migrate", environment=environment | {"REDIS_URL": "redis://127.0.0.1:1/0", "USAGE_TEST_CLOCK": "false"}
    )
    assert ended.returncode == 0
    assert id_of(rt.database) in ended.stdout
    assert len(ended.stderr.splitlines()) == 1


def test_a_copy_of_a_database_is_another_one_until_somebody_adopts_the_redis_or_renews_the_id(
    rt: Runtime, environment: dict[str, str], other_environment: dict[str, str], other_database: Database
) -> None:
    with other_database.transaction() as connection:
        connection.exec_driver_sql("UPDATE installation SET installation_id = %s", (id_of(rt.database),))
    assert usage_tasks("migrate", environment=environment).returncode == 0
    refused = usage_tasks("installation", "show", environment=other_environment)
    assert (refused.returncode, refused.stdout.strip()) == (1, id_of(rt.database))
    assert "in another database" in run(*WORKER, environment=other_environment).stderr
    assert usage_tasks("installation", "adopt", environment=other_environment).returncode == 0
    assert usage_tasks("installation", "show", environment=other_environment).returncode == 0
    assert usage_tasks("installation", "show", environment=environment).returncode == 1
    renewed = usage_tasks("installation", "new", environment=environment)
    assert (renewed.returncode, renewed.stdout.strip()) == (2, id_of(rt.database))
    assert id_of(rt.database) != id_of(other_database)


def test_roles_of_which_one_may_not_identify_the_server_are_of_one_installation(
    rt: Runtime, other_database: Database
) -> None:
    with rt.transaction() as connection:
        owners = read_installation(connection)
        connection.exec_driver_sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        connection.exec_driver_sql("SET LOCAL ROLE pg_read_all_data")
        workers = read_installation(connection)
    with other_database.transaction() as connection:
        others = read_installation(connection)
    assert (workers == owners, "@unknown/" in str(workers)) == (False, True)
    for first, second in ((owners, workers), (workers, owners)):
        rt.redis.delete("usage:installation")
        assert claim(rt.redis, first, rt.settings)
        assert not claim(rt.redis, second, rt.settings)
        with pytest.raises(ForeignRedisError):
            claim(rt.redis, replace(others, installation_id=owners.installation_id), rt.settings)


@pytest.mark.parametrize("pool", ["solo", "prefork", "threads"])
def test_a_flushed_redis_gets_its_id_back_and_a_taken_over_one_ends_the_worker_and_the_beat(
    rt: Runtime, environment: dict[str, str], other_environment: dict[str, str], tmp_path: Path, pool: str
) -> None:
    advance_clock(rt.redis, "usage:", START)
    with ExitStack() as stack:
        worker = start(stack, environment, tmp_path / "worker.log", (*WORKER, f"--pool={pool}"))
        beat = start(stack, environment, tmp_path / "beat.log", BEAT)
        wait_until(lambda: find_holder(rt.redis) is not None)
        rt.redis.flushdb()
        wait_until(lambda: (find_holder(rt.redis) or "").startswith(id_of(rt.database)), seconds=10)
        assert usage_tasks("installation", "adopt", environment=other_environment).returncode == 0
        assert (worker.wait(timeout=40), beat.wait(timeout=40)) == (2, 2)
        app = make_app(environment["REDIS_URL"], "usage:")
        app.send_task("usage.get_balance", kwargs={"attribution_id": team(), "actor": ACTOR}, queue="usage")
        assert run(*WORKER, environment=environment).returncode == 2
        assert rt.redis.llen("usage:usage") == 1
        assert rt.redis.hlen("usage:unacked") == 0
        app.close()
    for log in ("worker.log", "beat.log"):
        assert "installation: " in (tmp_path / log).read_text()
        assert "Traceback" not in (tmp_path / log).read_text()


def test_a_worker_refuses_a_database_that_is_not_the_configured_installation(
    rt: Runtime, environment: dict[str, str]
) -> None:
    wanted = "0b1c2d3e-0000-4000-8000-000000000000"
    ended = run(*WORKER, environment=environment | {"USAGE_INSTALLATION": wanted})
    assert ended.returncode == 2
    assert id_of(rt.database) in ended.stderr
    assert wanted in ended.stderr
