"""An installation in which everything is fine, for faults to be planted in."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import text

from tests.factories import START
from tests.server_directory import server_directory
from tests.stripe_world.fixtures import world
from usage_tasks.commands.operations.findings.examination import examine
from usage_tasks.commands.operations.findings.finding import DoctorFinding
from usage_tasks.embedded.redis import running_redis
from usage_tasks.health import write_heartbeat
from usage_tasks.runtime import Runtime
from usage_tasks.services.operations.job_standings import note_schedules
from usage_tasks.settings import load_settings

__all__ = ["world"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """An installation of this process's environment, and ways to change it."""

    rt: Runtime
    directory: Path
    monkeypatch: pytest.MonkeyPatch
    request: pytest.FixtureRequest

    @property
    def credentials(self) -> Path:
        return self.directory / "stripe.json"

    @property
    def heartbeats(self) -> Path:
        return self.directory / "beats"

    def set(self, name: str, value: str | None) -> None:
        """Set a variable, or take it away."""
        if value is None:
            self.monkeypatch.delenv(name, raising=False)
        else:
            self.monkeypatch.setenv(name, value)

    def sql(self, statement: str, **parameters: object) -> None:
        """Change something in the database."""
        with self.rt.transaction() as connection:
            connection.execute(text(statement), parameters)

    def own_redis(self) -> Any:
        """Move to an empty Redis of this test's own, whose configuration may be changed; return its client."""
        url = self.request.getfixturevalue("other_redis")
        self.set("REDIS_URL", url)
        client = redis.Redis.from_url(url)
        self.request.addfinalizer(client.close)
        return client

    def examine(self) -> list[DoctorFinding]:
        """Run the doctor."""
        return list(examine(os.environ))


@pytest.fixture
def other_redis() -> Iterator[str]:
    """A Redis of this test's own."""
    with server_directory() as directory, running_redis(directory, os.environ) as url:
        yield url


@pytest.fixture
def installation(
    rt: Runtime, real_rt: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Installation:
    """An installation of one host with nothing to see to: schedules, a test key, the heartbeats of beat and worker."""
    _ = rt.database  # opened while its schema fits: its fixture closes it
    made = Installation(rt=real_rt, directory=tmp_path, monkeypatch=monkeypatch, request=request)
    made.credentials.write_text(json.dumps({"secretKey": "sk_test_not_a_key", "webhookKey": "whsec_not_a_key"}))
    made.credentials.chmod(0o600)
    write_heartbeat(made.heartbeats, "beat", "1", broker=())
    write_heartbeat(made.heartbeats, "worker", "celery@here", broker=())
    made.set("USAGE_HEARTBEAT_DIR", str(made.heartbeats))
    made.set("USAGE_STRIPE_CREDENTIALS_FILE", str(made.credentials))
    made.set("USAGE_CONTROLLER_SCHEDULE", "15m")
    with real_rt.transaction() as connection:
        note_schedules(connection, load_settings(os.environ).job_schedules, at=START)  # as `migrate` does
        connection.execute(text("UPDATE job_run SET slot = clock_timestamp()"))
    return made
