"""The receiver as installed: settings, secrets and Celery app from the environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from tests.webhook_app.conftest import Receiver, make_event, make_thin_event, running_receiver, sign, wait_until
from usage_tasks.embedded.processes import free_port

SERVE = "import sys; from usage_tasks.webhook_app.serving import serve; serve('127.0.0.1', int(sys.argv[1]))"
QUEUES = ("usage", "billing", "stripe", "directory", "maintenance", "server")
SETTINGS = {
    "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"default": 0.5}',
    "USAGE_DEFAULT_SPENDING_LIMIT": '{"forTeams": 500, "forUsers": 100}',
}


APP = "usage_tasks.webhook_app:app"
SCRIPTS = Path(sys.executable).parent
COMMANDS = {
    "usage-tasks webhook": ["usage-tasks", "webhook"],
    "python -m": ["python", "-m", "usage_tasks.webhook_app", "127.0.0.1", "PORT"],
    "granian": ["granian", "--host", "127.0.0.1", "--port", "PORT", APP],
    "granian, two workers": ["granian", "--interface", "rsgi", "--workers", "2", "--port", "PORT", APP],
}


def running(command: str) -> str:
    """Code that becomes a command, as a user would type it."""
    name, *arguments = COMMANDS[command]
    typed = [str(SCRIPTS / name), *arguments]
    return (
        f"import os, sys; typed = [each.replace('PORT', sys.argv[1]) for each in {typed}]; "
        "os.environ['USAGE_SERVER__PORT'] = sys.argv[1]; os.execv(typed[0], typed)"
    )


def is_ready(receiver: Receiver) -> bool:
    """Whether it says so. Its port was open for a moment before: the receiver looks whether the port is free."""
    try:
        return receiver.request("GET", "/readyz").status == 200
    except ConnectionError:
        return False


@pytest.mark.parametrize("command", list(COMMANDS))
def test_by_any_command_it_receives(tmp_path: Path, broker: str, command: str) -> None:
    environ = SETTINGS | {"STRIPE_WEBHOOK_SECRET": "whsec_mine,whsec_old", "REDIS_URL": broker}
    environ |= {"STRIPE_THIN_WEBHOOK_SECRET": "whsec_thin"}
    with (
        Redis.from_url(broker) as redis,
        running_receiver(tmp_path, broker, code=running(command), environ=environ) as receiver,
    ):
        redis.flushdb()
        body = make_event(id="evt_any_command")
        assert wait_until(lambda: is_ready(receiver), seconds_max=20)
        assert receiver.post(body, secret="whsec_old").status == 200
        assert receiver.post_thin(make_thin_event(id="evt_thin_any_command"), secret="whsec_thin").status == 200
        signed = {"Stripe-Signature": sign(body, secret="whsec_mine")}
        assert receiver.request(body=iter([body[:9], body[9:]]), headers=signed).status == 200
        assert redis.llen("usage:stripe") == 3
        assert receiver.post(body, secret="whsec_other").status == 400
        assert receiver.post(body.ljust(2 * 1024 * 1024), secret="whsec_mine").status == 413
        assert receiver.request(body=iter([b"x" * 65_536] * 40), headers=signed).status == 413
        put = receiver.request("PUT")
        assert (put.status, {name.lower(): text for name, text in put.headers.items()}["allow"]) == (405, "POST")
        assert receiver.request("GET", "/healthz").status == 200
        assert redis.llen("usage:stripe") == 3
        assert "Traceback" not in receiver.log.read_text()
        redis.flushdb()


@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_wrong_setting_ends_any_command_at_its_start_and_not_at_the_first_request(command: str) -> None:
    environ = {**os.environ, **SETTINGS, "STRIPE_SECRET_KEY": "sk_1"}
    environ.pop("STRIPE_WEBHOOK_SECRET", None)
    ended = subprocess.run(
        [sys.executable, "-c", running(command), str(free_port())],
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode != 0
    assert "STRIPE_WEBHOOK_SECRET sets it too" in ended.stderr


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
