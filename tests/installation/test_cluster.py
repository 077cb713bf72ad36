"""A Redis Cluster is refused in one line."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from tests.factories import session_row
from tests.installation.sides import BEAT, WORKER, make_app, run
from tests.installation.test_foreign import ACTOR, id_of, start
from tests.installation.test_tls import RECEIVER, STRIPE
from usage_tasks.client import WrongBrokerError, record
from usage_tasks.commands.operations.findings.finding import Examination
from usage_tasks.commands.operations.findings.installation import look_at_installation
from usage_tasks.coordination.installation import find_holder
from usage_tasks.embedded.binaries import find_redis_server
from usage_tasks.embedded.processes import child_process, free_port
from usage_tasks.runtime import Runtime
from usage_tasks.settings import load_settings

pytestmark = pytest.mark.timeout(120)


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[str]:
    """Run a server with options of its own."""
    port, log = free_port(), directory / "redis.log"
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "", *options]
    with child_process(
        [str(find_redis_server({})), *arguments],
        name="valkey",
        log=log,
        environment={},
        ready=lambda: log.exists() and "eady to accept connections" in log.read_text(),
    ):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A node of a cluster that has no slots: it answers as one of another's slots does, with an error."""
    with serving(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as url:
        yield url


def test_a_server_that_does_not_know_info_is_taken_as_it_is(
    environment: dict[str, str], rt: Runtime, tmp_path: Path
) -> None:
    with serving(tmp_path, "--rename-command", "INFO", "") as url, ExitStack() as stack:
        start(stack, environment | {"REDIS_URL": url, "USAGE_TEST_CLOCK": "false"}, tmp_path / "worker.log")
        with redis.Redis.from_url(url) as client:
            assert (find_holder(client) or "").startswith(id_of(rt.database))


@pytest.mark.parametrize(
    "command",
    [WORKER, BEAT, (*RECEIVER, "127.0.0.1", "PORT"), ("-m", "usage_tasks", "migrate")],
    ids=["worker", "beat", "receiver", "migrate"],
)
def test_each_process_refuses_a_cluster_in_one_line(
    environment: dict[str, str], cluster: str, command: tuple[str, ...]
) -> None:
    variables = environment | STRIPE | {"REDIS_URL": cluster, "USAGE_TEST_CLOCK": "false"}
    ended = run(*(each.replace("PORT", str(free_port())) for each in command), environment=variables)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert len([each for each in ended.stderr.splitlines() if each.startswith("redis: ") and "Cluster" in each]) == 1


def test_doctors_finding_names_the_cluster(rt: Runtime, environment: dict[str, str], cluster: str) -> None:
    other = Runtime(load_settings(environment | {"REDIS_URL": cluster}))
    (found,) = look_at_installation(Examination(rt=other, environ={}))
    assert (found.check, found.verdict) == ("installation", "wrong")
    assert "Redis Cluster" in found.found
    other.database.dispose()


def test_a_platform_learns_at_once_that_its_broker_is_a_cluster(cluster: str) -> None:
    app = make_app(cluster, "usage:")
    with pytest.raises(WrongBrokerError, match="Redis Cluster"):
        record(app, [session_row()], actor=ACTOR, attempts=1, confirm_seconds=1)
    app.close()
