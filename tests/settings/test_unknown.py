"""Settings of a newer release do not keep an older one from starting; a typing error in the file does."""

import json
import logging

import pytest

from tests.settings.conftest import MISSION_FILE, REQUIRED, Load, Problems
from usage_tasks.settings.environment import ALLOW_UNKNOWN_VARIABLE, warn

ALLOWED = {ALLOW_UNKNOWN_VARIABLE: "true"}
NEWER = {"newKey": "hush", "server": {"port": 3001, "newKey": ["hush"]}, "dunning": {"new": {"er": 1}}}


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> None:
    """A warning is given once a process."""
    warn.cache_clear()


@pytest.mark.parametrize(
    "name",
    [
        "USAGE_SERVER_PORT",
        "USAGE_SERVER__NEWER_KEY",
        "USAGE_NEWER_KEY",
        "USAGE_STRIPE_SECRET_KEY",
        "USAGE_",
    ],
)
def test_an_unknown_variable_is_a_warning_without_its_value(
    load: Load, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    assert load(MISSION_FILE, environ={name: "hush"}) == load(MISSION_FILE)
    (line,) = caplog.records
    assert (line.levelno, f"environment variable {name}: no such setting" in line.message) == (logging.WARNING, True)
    assert "hush" not in line.message


def test_a_variable_that_is_almost_right_is_shown_the_right_one(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    load(environ={"USAGE_REDIS__ADRESS": "redis:1"})
    assert "USAGE_REDIS__ADRESS: no such setting; did you mean USAGE_REDIS__ADDRESS?" in caplog.text


def test_a_warning_is_given_once(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        load(environ={"USAGE_NEWER_KEY": "1"})
    assert len(caplog.records) == 1


def test_an_unknown_key_of_the_file_is_refused_with_the_variable_that_allows_it(problems: Problems) -> None:
    for environ in ({}, {ALLOW_UNKNOWN_VARIABLE: ""}, {ALLOW_UNKNOWN_VARIABLE: "false"}):
        message = problems(**NEWER, environ=environ)
        assert message.count("no such key") == 3
        assert f"{ALLOW_UNKNOWN_VARIABLE}=true" in message
        assert "hush" not in message


def test_the_keys_of_a_newer_file_are_left_out_where_that_is_allowed(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load(json.dumps(REQUIRED | NEWER), environ=ALLOWED)
    assert settings == load(server={"port": 3001})
    assert settings.server.port == 3001
    named = sorted(line.message.split(": ")[1] for line in caplog.records)
    assert named == ["`dunning.new`", "`newKey`", "`server.newKey`"]
    assert "hush" not in caplog.text


def test_a_wrong_value_is_refused_though_unknown_keys_are_allowed(problems: Problems) -> None:
    message = problems(**NEWER, controllerSchedule="soon", environ=ALLOWED)
    assert "`controllerSchedule`: must be a duration" in message
    assert "no such key" not in message


@pytest.mark.parametrize("value", ["yes", "1", "True", "off"])
def test_the_variable_that_allows_them_is_true_or_false(problems: Problems, value: str) -> None:
    said = problems(environ={ALLOW_UNKNOWN_VARIABLE: value})
    assert f'`{ALLOW_UNKNOWN_VARIABLE}`: must be true or false (got "{value}")' in said
