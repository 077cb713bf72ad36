"""The receiver as it is installed: settings, secrets and Celery app from the environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from tests.webhook_app.conftest import make_event, running_receiver

SERVE = "import sys; from usage_tasks.webhook_app.serving import serve; serve('127.0.0.1', int(sys.argv[1]))"
QUEUES = ("usage", "billing", "stripe", "directory", "maintenance", "server")
SETTINGS = {
    "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"default": 0.5}',
    "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 500, "forUsers": 100}',
}


def test_without_a_webhook_secret_it_does_not_start() -> None:
    environ = {**os.environ, **SETTINGS, "STRIPE_SECRET_KEY": "sk_1"}
    environ.pop("STRIPE_WEBHOOK_SECRET", None)
    ended = subprocess.run(
        [sys.executable, "-c", SERVE, "0"], env=environ, capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode != 0
    assert "STRIPE_WEBHOOK_SECRET sets it too" in ended.stderr
    assert "sk_1" not in ended.stderr


def test_with_settings_and_secret_it_serves(tmp_path: Path, broker: str) -> None:
    pytest.importorskip("usage_tasks.celery", reason="the Celery app is not there yet")
    environ = SETTINGS | {"STRIPE_WEBHOOK_SECRET": "whsec_mine", "REDIS_URL": broker}
    with Redis.from_url(broker) as redis:
        redis.flushdb()
    with running_receiver(tmp_path, broker, code=SERVE, environ=environ) as receiver:
        assert receiver.request("GET", "/healthz").status == 200
        assert receiver.post(make_event(id="evt_served"), secret="whsec_mine").status == 200
        with Redis.from_url(broker) as redis:
            lengths = {name: redis.llen(f"usage:{name}") for name in QUEUES}
        assert lengths == dict.fromkeys(QUEUES, 0) | {"stripe": 1}
        events = [json.loads(line) for line in receiver.log.read_text().splitlines() if line.startswith("{")]
        assert "Traceback" not in receiver.log.read_text()
        assert {"webhook.accepted"} == {event["event"] for event in events if event.get("event_id") == "evt_served"}
