"""Settings that can't be used are refused once, with every problem, and without showing a secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.settings.conftest import REQUIRED, Problems
from usage_tasks.settings import SettingsError, load_settings

PRICES = "creditsPerMinuteByWorkspaceClass"
STATES = "creditsPerMinuteByWorkspaceClassAndState"
RULES = "workspaceClassRules"


def test_every_problem_is_listed_with_its_origin_key_value_and_what_is_allowed(
    problems: Problems, tmp_path: Path
) -> None:
    message = problems(
        controllerSchedule="1 minute",
        server={"port": "3000"},
        defaultSpendingLimit={"forTeams": 500},
        spendingLimits={},
        environ={"USAGE_REDIS__ADDRESS": "redis"},
    )
    lines = message.splitlines()
    file = tmp_path / "usage.json"
    assert lines[0] == "settings can't be used:"
    assert sum(line.startswith("- ") for line in lines) == len(lines) - 1 == 5
    assert f"{file}: `controllerSchedule`: must be a duration" in message
    assert '(got "1 minute")' in message or '(got "1 minute": ' in message
    assert f'{file}: `server.port`: must be a port from 1 to 65535 (got "3000")' in message
    assert f"{file}: `defaultSpendingLimit.forUsers`: must be " in message
    assert f"{file}: `spendingLimits`: no such key; known here: billingSyncSchedule" in message
    assert 'environment variable USAGE_REDIS__ADDRESS: `redis.address`: must be host:port (got "redis"' in message


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"controllerSchedule": "0s"}, 'controllerSchedule = "0s": out of range; must be a duration'),
        ({"controllerSchedule": "-1m"}, "controllerSchedule"),
        ({"controllerSchedule": "1ns"}, "controllerSchedule"),
        ({"controllerSchedule": "90000h"}, "controllerSchedule"),
        ({"heartbeatGrace": "0s"}, 'heartbeatGrace = "0s": out of range; must be a duration'),
        ({"maxSessionLifetime": 36}, "maxSessionLifetime = 36: must be a duration"),
        ({"resetUsageSchedule": 60}, "resetUsageSchedule = 60: must be a duration"),
        ({PRICES: {}}, f"{PRICES} = an object: must be at least one workspace class"),
        ({PRICES: {"default": -1}}, f"{PRICES}.default = -1: "),
        ({PRICES: {"default": 1_000_001}}, f"{PRICES}.default = 1000001: "),
        ({PRICES: {"default": "0.5"}}, f'{PRICES}.default = "0.5": '),
        ({PRICES: {"default": True}}, f"{PRICES}.default = true: "),
        ({PRICES: {"default": None}}, f"{PRICES}.default = null: "),
        ({PRICES: {"default": float("nan")}}, f"{PRICES}.default = NaN: "),
        ({PRICES: {"default": float("inf")}}, f"{PRICES}.default = Infinity: "),
        ({PRICES: {" ": 1}}, f"{PRICES}. "),
        ({PRICES: {"large:suspended": 1}}, f"{PRICES}.large:suspended"),
        ({PRICES: {"a:timeline": 1}}, f"{PRICES}.a:timeline"),
        ({STATES: {"gold": {"suspended": 1}}}, f"{STATES} = an object: no price for gold; must be prices of the"),
        ({STATES: {"default": {}}}, f"{STATES}.default = an object: must be prices of the states"),
        ({STATES: {"default": {"running": 1}}}, f"{STATES}.default.running"),
        ({STATES: {"default": {"paused": 1}}}, f"{STATES}.default.paused"),
        ({STATES: {"default": {"suspended": -1}}}, f"{STATES}.default.suspended = -1: out of range"),
        ({STATES: {"default": 1}}, f"{STATES}.default = 1: must be prices of the states"),
        ({RULES: {"gold": {}}}, f"{RULES} = an object: no price for gold; must be rules of classes that have a price"),
        ({RULES: {"default": {"minimumCredits": 0.001}}}, f"{RULES}.default.minimumCredits = 0.001: 3 fractional"),
        ({RULES: {"default": {"minimumCredits": -1}}}, f"{RULES}.default.minimumCredits = -1: out of range"),
        ({RULES: {"default": {"minimumCredits": "1"}}}, f'{RULES}.default.minimumCredits = "1": must be rules'),
        ({RULES: {"default": {"roundingStep": "0s"}}}, f'{RULES}.default.roundingStep = "0s": out of range'),
        ({RULES: {"default": {"roundingStep": "1500ms"}}}, f'{RULES}.default.roundingStep = "1500ms": out of range'),
        ({RULES: {"default": {"roundingStep": "25h"}}}, f'{RULES}.default.roundingStep = "25h": out of range'),
        ({RULES: {"default": {"roundingStep": 60}}}, f"{RULES}.default.roundingStep = 60: must be rules"),
        ({RULES: {"default": {"step": 60}}}, f"`{RULES}.default.step`: no such key; must be rules of classes"),
        ({"defaultSpendingLimit": {"forTeams": -1, "forUsers": 1}}, "defaultSpendingLimit.forTeams = -1: "),
        ({"defaultSpendingLimit": {"forTeams": 1.0, "forUsers": 1}}, "defaultSpendingLimit.forTeams = 1.0: "),
        ({"defaultSpendingLimit": {"forTeams": "1", "forUsers": 1}}, 'defaultSpendingLimit.forTeams = "1": '),
        ({"defaultSpendingLimit": {"forTeams": True, "forUsers": 1}}, "defaultSpendingLimit.forTeams = true: "),
        ({"limitThresholds": [0]}, "limitThresholds.0 = 0: must be up to 10 different percentages from 1 to 1000"),
        ({"limitThresholds": [1001]}, "limitThresholds.0 = 1001: "),
        ({"limitThresholds": [50, 50]}, "limitThresholds = a list: one occurs twice; must be up to 10"),
        ({"limitThresholds": list(range(1, 12))}, "limitThresholds = a list: must be up to 10"),
        ({"limitThresholds": 50}, "limitThresholds = 50: "),
        ({"limitThresholds": [True]}, "limitThresholds.0 = true: "),
        ({"hardLimitGrace": {"percent": -1}}, "hardLimitGrace.percent = -1: must be a whole percentage"),
        ({"hardLimitGrace": {"percent": 1001}}, "hardLimitGrace.percent = 1001: "),
        ({"hardLimitGrace": {"credits": -1}}, "hardLimitGrace.credits = -1: "),
        ({"hardLimitGrace": {"credits": 1, "percent": 1}}, "hardLimitGrace = an object: credits and percent exclude"),
        ({"hardLimitGrace": 10}, "hardLimitGrace = 10: must be an object"),
        ({"server": {"port": 0}}, "server.port = 0: "),
        ({"server": 3000}, "server = 3000: must be an object"),
        ({"redis": {"address": "redis:99999"}}, 'redis.address = "redis:99999": '),
        ({"redis": {"address": "a:1", "url": "redis://a"}}, "redis = an object: address and url exclude each other"),
        ({"redis": {"url": "http://a"}}, 'redis.url = "http://a": '),
        ({"stripeApiBase": "localhost:12111"}, "stripeApiBase"),
        ({"stripePrices": {"teamUsagePriceIds": {"EUR": "p"}}}, "stripePrices.teamUsagePriceIds.EUR"),
        ({"stripePrices": {"teamUsagePriceIds": {}}}, "stripePrices.teamUsagePriceIds = an object"),
        (
            {"stripePrices": {"teamUsagePriceIds": {"eur": "p"}, "teamUsagePriceId": "p"}},
            "teamUsagePriceId and teamUsagePriceIds exclude each other",
        ),
        ({"testClock": "true"}, 'testClock = "true": '),
        ({"controller_schedule": "1m"}, "`controller_schedule`: no such key"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_name(
    problems: Problems, keys: dict[str, Any], expected: str
) -> None:
    """`expected`: a part of the message, or `path = got: reason; what it must be`."""
    message = problems(**keys)
    path, is_value, rest = expected.partition(" = ")
    if is_value:
        got, *parts = rest.split(": ", 1)
        for part in (f"`{path}`: must be ", f"(got {got}", *(parts[0].split("; ") if parts else [])):
            assert part in message
    else:
        assert expected in message
    assert message.count("\n- ") == 1


@pytest.mark.parametrize("price", ["0.000000000000000000001", "1e-21", "1e999999999999"])
def test_a_price_finer_or_larger_than_the_ledger_can_count_is_refused(problems: Problems, price: str) -> None:
    assert f"{PRICES}.default" in problems(json.dumps(REQUIRED).replace("0.5", price))


def test_a_key_that_occurs_twice_is_refused(problems: Problems) -> None:
    text = json.dumps(REQUIRED).replace('"forTeams": 500', '"forTeams": 500, "forTeams": 501')
    assert "defaultSpendingLimit.forTeams: occurs twice" in problems(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not JSON: "),
        ("[]", "not a JSON object"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON: nested too deeply"),
    ],
)
def test_a_file_that_holds_no_object_is_refused(problems: Problems, tmp_path: Path, text: str, expected: str) -> None:
    assert f"{tmp_path / 'usage.json'}: {expected}" in problems(text)


def test_a_file_that_cannot_be_read_is_one_problem_beside_those_of_the_environment(tmp_path: Path) -> None:
    environ = {"USAGE_CONFIG": str(tmp_path / "none.json"), "USAGE_SERVER__PORT": "x"}
    with pytest.raises(SettingsError) as refused:
        load_settings(environ)
    assert len(refused.value.problems) == 2
    assert refused.value.problems[0] == f"{tmp_path / 'none.json'}: can't be read: No such file or directory"


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b" " * 1_100_000])
def test_a_file_of_other_bytes_or_too_many_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "usage.json"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"not UTF-8|larger than"):
        load_settings({"USAGE_CONFIG": str(file)})


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read: Is a directory"):
        load_settings({"USAGE_CONFIG": str(tmp_path)})


def test_without_file_and_environment_what_is_required_is_named() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({})
    assert len(refused.value.problems) == 2
    assert "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS sets it too" in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:hush@db/x",
        "mysql://user:hu/sh@hush@db",
        "hush",
        "mysql://db?password=hush",
        "host=db password=hush",
    ],
)
def test_the_password_of_a_refused_database_url_is_not_shown(problems: Problems, url: str) -> None:
    for message in (problems(database={"url": url}), problems(environ={"DATABASE_URL": url})):
        assert "`database.url`: must be a URL" in message
        assert "hush" not in message


@pytest.mark.parametrize(
    "url", ["http://:hush@r:1", "redis://:hush/hush@r:1", "redis://:hush#hush@r", "redis://r:hush"]
)
def test_the_password_of_a_refused_redis_url_is_not_shown(problems: Problems, url: str) -> None:
    for message in (problems(redis={"url": url}), problems(redis=url), problems(environ={"REDIS_URL": url})):
        assert "redis" in message
        assert "hush" not in message


def test_the_value_of_an_unknown_key_is_not_shown(problems: Problems) -> None:
    assert "hush" not in problems(stripeSecretKey="hush")


def test_a_variable_that_could_mean_two_classes_is_refused(problems: Problems) -> None:
    keys = {PRICES: {"g1-large": 1, "g1_large": 1}}
    name = "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS__G1_LARGE"
    assert f"environment variable {name}" in problems(environ={name: "1"}, **keys)


def test_two_forms_of_one_price_in_the_environment_exclude_each_other(problems: Problems) -> None:
    environ = {
        "USAGE_STRIPE_PRICES__TEAM_USAGE_PRICE_ID": "price_1",
        "USAGE_STRIPE_PRICES__TEAM_USAGE_PRICE_IDS__EUR": "price_2",
    }
    assert "exclude each other" in problems(environ=environ)


@pytest.mark.parametrize("key", ["", "large", "A-B"])
def test_a_variable_that_names_no_key_of_a_map_is_refused(problems: Problems, key: str) -> None:
    name = f"USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS__{key}"
    assert f"environment variable {name}: names no key, or more than one" in problems(environ={name: "1"})
