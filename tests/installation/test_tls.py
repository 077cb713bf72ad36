"""`rediss://` in one spelling: every process verifies the certificate, and takes a CA of the operator's own."""

import base64
import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.factories import START, session_row
from tests.installation.sides import BEAT, WORKER, advance_clock, make_app, run, usage_tasks
from tests.installation.test_foreign import ACTOR, start
from tests.installation.tls import Certificates, TlsServer, make_certificates, tls_before
from tests.worker.workers import wait_until
from usage_tasks.client import Recorded, UnconfirmedError, record
from usage_tasks.commands.operations.findings.finding import Examination
from usage_tasks.commands.operations.findings.installation import look_at_installation
from usage_tasks.embedded.processes import child_process, free_port
from usage_tasks.runtime import Runtime
from usage_tasks.settings import load_settings
from usage_tasks.settings.redis_url import parse_redis_url

pytestmark = pytest.mark.timeout(120)
RECEIVER = ("-m", "usage_tasks.webhook_app")
STRIPE = {"STRIPE_SECRET_KEY": "sk_test_1", "STRIPE_WEBHOOK_SECRET": "whsec_1"}
FAILURE = "certificate verify failed"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The certificates of all these tests: four keys are half a second of CPU time."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls(redis_url: str, certificates: Certificates) -> Iterator[TlsServer]:
    """TLS before the Redis of the test."""
    with tls_before(redis_url, certificates) as server:
        yield server


def test_a_worker_a_beat_and_a_platform_work_over_tls_with_a_ca_of_their_own(
    rt: Runtime, environment: dict[str, str], tls: TlsServer, tmp_path: Path
) -> None:
    variables = environment | {"REDIS_URL": tls.url()}
    advance_clock(rt.redis, "usage:", START)
    with ExitStack() as stack:
        start(stack, variables, tmp_path / "worker.log")
        start(stack, variables, tmp_path / "beat.log", BEAT)
        app = make_app(parse_redis_url(tls.url()), "usage:")
        assert record(app, [session_row()], actor=ACTOR, at=START) == Recorded(inserted=1)
        app.close()
    assert FAILURE not in (tmp_path / "worker.log").read_text() + (tmp_path / "beat.log").read_text()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["another CA", "another name"])
@pytest.mark.parametrize(
    "command", [WORKER, BEAT, (*RECEIVER, "127.0.0.1", "PORT")], ids=["worker", "beat", "receiver"]
)
def test_a_certificate_that_is_not_trusted_ends_each_process_in_one_line(
    environment: dict[str, str], tls: TlsServer, command: tuple[str, ...], host: str
) -> None:
    variables = environment | STRIPE | {"REDIS_URL": tls.url(trusted=host == "localhost", host=host)}
    ended = run(*(each.replace("PORT", str(free_port())) for each in command), environment=variables)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    (line,) = [each for each in ended.stderr.splitlines() if each.startswith("redis: no TLS with rediss://")]
    assert FAILURE in line


@pytest.mark.parametrize("command", ["migrate", "poison list", "installation show"])
def test_a_command_refuses_a_certificate_that_is_not_trusted(
    environment: dict[str, str], tls: TlsServer, command: str
) -> None:
    variables = environment | {"REDIS_URL": tls.url(trusted=False)}
    ended = usage_tasks(*command.split(), environment=variables)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert FAILURE in ended.stderr


def test_a_platform_refuses_a_certificate_that_is_not_trusted(tls: TlsServer) -> None:
    app = make_app(parse_redis_url(tls.url(trusted=False)), "usage:")
    with pytest.raises(UnconfirmedError, match=FAILURE):
        record(app, [session_row()], actor=ACTOR, attempts=1, confirm_seconds=1)
    app.close()


def test_the_exporter_and_flower_read_over_tls(
    rt: Runtime, environment: dict[str, str], tls: TlsServer, tmp_path: Path
) -> None:
    assert rt.redis.lpush("usage:usage", json.dumps({"headers": {}})) == 1
    variables = environment | {"REDIS_URL": tls.url(), "FLOWER_BASIC_AUTH": "u:secret", "USAGE_TEST_CLOCK": "false"}
    ports = {"exporter": free_port(), "flower": free_port()}

    def read(name: str, path: str) -> str:
        asked = urllib.request.Request(f"http://127.0.0.1:{ports[name]}{path}")
        asked.add_header("Authorization", f"Basic {base64.b64encode(b'u:secret').decode()}")
        try:
            return str(urllib.request.urlopen(asked, timeout=5).read().decode())  # noqa: S310 - on this machine
        except OSError:
            return ""

    with ExitStack() as stack:
        for name, port in ports.items():
            command = [sys.executable, "-m", "usage_tasks", name, f"--port={port}"]
            log = tmp_path / f"{name}.log"
            stack.enter_context(child_process(command, name=name, log=log, environment=variables))
        wait_until(lambda: 'usage_exporter_up{part="broker"} 1.0' in read("exporter", "/metrics"))
        wait_until(lambda: '"messages": 1' in read("flower", "/api/queues/length"))


@pytest.mark.parametrize("asked", ["", "&ssl_cert_reqs=none"])
def test_doctors_finding_names_a_certificate_that_nobody_checks(
    rt: Runtime, environment: dict[str, str], tls: TlsServer, asked: str
) -> None:
    untrusted = bool(asked)
    other = Runtime(load_settings(environment | {"REDIS_URL": tls.url(trusted=not untrusted) + asked}))
    found = [(each.check, each.verdict) for each in look_at_installation(Examination(rt=other, environ={}))]
    assert found == ([("broker", "look")] if untrusted else []) + [("installation", "fine")]
    other.database.dispose()
