"""The output of `usage-tasks settings` is a configuration file that loads to the same settings, without passwords."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.settings.conftest import MISSION_FILE, REQUIRED, Load
from usage_tasks.domain.durations import format_duration, parse_duration
from usage_tasks.settings import print_settings
from usage_tasks.settings.printing import without_password

FULL: dict[str, Any] = REQUIRED | {
    "controllerSchedule": "1m30s",
    "resetUsageSchedule": "",
    "billingSyncSchedule": "",
    "heartbeatGrace": "1.5s",
    "maxSessionLifetime": "36h",
    "creditsPerMinuteByWorkspaceClass": {"default": 0.5, 'g1 "large" \u00e4': 1000000, "tiny": 1e-07},
    "creditsPerMinuteByWorkspaceClassAndState": {"default": {"suspended": 0.05, "stopped_kept": 0}},
    "workspaceClassRules": {"default": {"minimumCredits": 0.29, "roundingStep": "1m"}},
    "limitThresholds": [],
    "hardLimitGrace": {"percent": 10},
    "dunning": {"enabled": False},
    "directoryKeyFile": "/etc/key",
    "stripeCredentialsFile": "/etc/stripe.json",
    "stripePrices": {"individualUsagePriceId": "price_1", "teamUsagePriceIds": {"eur": "price_e", "usd": "price_u"}},
    "stripeApiBase": "http://127.0.0.1:12111",
    "server": {"address": "::1", "port": 3001, "trustedProxies": ["10.0.0.0/8"], "refusalsPerMinute": 0},
    "database": {"url": "postgresql://usage@db:5432/usage?sslmode=verify-full"},
    "redis": {"url": "rediss://worker@redis:6379/3?ssl_cert_reqs=required"},
    "serverAddress": "server:3000",
    "testClock": True,
}


@pytest.mark.parametrize("text", [MISSION_FILE, json.dumps(REQUIRED), json.dumps(FULL)], ids=["old", "least", "full"])
def test_the_printed_file_loads_to_the_same_settings(load: Load, text: str) -> None:
    settings = load(text)
    printed = print_settings(settings)
    again = load(printed)
    assert again.model_dump() | {"redis": None} == settings.model_dump() | {"redis": None}
    assert again.redis_url == settings.redis_url
    assert print_settings(again) == printed


def test_a_price_is_printed_to_its_last_digit(load: Load) -> None:
    text = json.dumps(REQUIRED).replace("0.5", "0.16666666670000000001")
    assert "0.16666666670000000001" in print_settings(load(text))


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=366)))
def test_a_duration_is_printed_as_it_is_read(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hush@h:5432/d", "postgresql://u@h:5432/d"),
        ("postgresql://u:hu%40sh@h/d?sslmode=require", "postgresql://u@h/d?sslmode=require"),
        ("postgresql://u:a@hush/hush@h/d", "postgresql://u@h/d"),
        ("postgresql://u:hush?hush@h/d", "postgresql://u@h/d"),
        ("postgresql://u@h/d?password=hush&sslmode=require&sslpassword=hush", "postgresql://u@h/d?sslmode=require"),
        ("postgresql://u@h1:5432,h2:5433/d", "postgresql://u@h1:5432,h2:5433/d"),
        ("postgresql:///d?host=/run/pg", "postgresql:///d?host=/run/pg"),
        ("postgresql://[::1]:5432/d", "postgresql://[::1]:5432/d"),
        ("postgresql://u:hush", "postgresql://u"),
        ("redis://:hush@h:6379/0", "redis://h:6379/0"),
        ("rediss://u:hush@h/0?ssl_cert_reqs=required&password=hush", "rediss://u@h/0?ssl_cert_reqs=required"),
    ],
)
def test_a_url_is_shown_with_its_user_and_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_the_command_prints_a_file_that_it_takes_itself(tmp_path: Path) -> None:
    (tmp_path / "first.json").write_text(json.dumps(REQUIRED))
    system = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}

    def printed(file: str, **variables: str) -> str:
        environment = system | {"USAGE_CONFIG": str(tmp_path / file)} | variables
        command = [sys.executable, "-m", "usage_tasks", "settings"]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    secret = {"DATABASE_URL": "postgresql://u:hush@db/usage", "REDIS_URL": "redis://:hush@redis:6379/7"}
    first = printed("first.json", **secret)
    assert "hush" not in first
    assert (json.loads(first)["database"], json.loads(first)["redis"]) == (
        {"url": "postgresql://u@db/usage"},
        {"url": "redis://redis:6379/7", "prefix": "usage:"},
    )
    (tmp_path / "second.json").write_text(first)
    assert printed("second.json", DATABASE_URL="", REDIS_URL="") == first
