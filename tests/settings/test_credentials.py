"""Secrets come from the environment or a file of their own, and are never shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.settings.conftest import Load
from usage_tasks.settings import SettingsError, read_directory_key, read_stripe_credentials

ORIGINAL = {"publishableKey": "pk_1", "secretKey": "sk_1", "webhookKey": "whsec_1"}


def _file(tmp_path: Path, content: Any) -> str:
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps(content))
    return str(file)


def test_the_file_of_the_original_is_read(load: Load, tmp_path: Path) -> None:
    credentials = read_stripe_credentials(load(stripeCredentialsFile=_file(tmp_path, ORIGINAL)), {})
    assert credentials.get_secret_key() == "sk_1"
    assert credentials.get_webhook_secrets() == ("whsec_1",)


def test_two_webhook_secrets_are_known_while_they_are_rolled(load: Load, tmp_path: Path) -> None:
    file = _file(tmp_path, ORIGINAL | {"webhookKey": ["whsec_new", "whsec_old"]})
    credentials = read_stripe_credentials(load(stripeCredentialsFile=file), {})
    assert credentials.get_webhook_secrets() == ("whsec_new", "whsec_old")


def test_the_environment_overrides_the_file(load: Load, tmp_path: Path) -> None:
    settings = load(stripeCredentialsFile=_file(tmp_path, ORIGINAL))
    credentials = read_stripe_credentials(settings, {"STRIPE_WEBHOOK_SECRET": "whsec_2, whsec_3"})
    assert credentials.get_secret_key() == "sk_1"
    assert credentials.get_webhook_secrets() == ("whsec_2", "whsec_3")


def test_the_receiver_needs_only_its_own_secret(load: Load, tmp_path: Path) -> None:
    settings = load(stripeCredentialsFile=str(tmp_path / "not mounted here.json"))
    credentials = read_stripe_credentials(settings, {"STRIPE_WEBHOOK_SECRET": "whsec_1"})
    assert credentials.get_webhook_secrets() == ("whsec_1",)
    with pytest.raises(SettingsError, match=r"not mounted here\.json .*`secretKey`: must be given"):
        credentials.get_secret_key()


def test_a_missing_file_is_named(load: Load, tmp_path: Path) -> None:
    settings = load(stripeCredentialsFile=str(tmp_path / "none.json"))
    with pytest.raises(SettingsError, match=r"none\.json: can't be read: No such file"):
        read_stripe_credentials(settings, {})


def test_no_file_and_no_environment_is_an_error_that_says_what_to_set(load: Load) -> None:
    with pytest.raises(SettingsError, match=r"stripeCredentialsFile.*STRIPE_SECRET_KEY"):
        read_stripe_credentials(load(), {})


def test_credentials_never_show_themselves(load: Load, tmp_path: Path) -> None:
    credentials = read_stripe_credentials(load(stripeCredentialsFile=_file(tmp_path, ORIGINAL)), {})
    for shown in (repr(credentials), str(credentials), credentials.model_dump_json()):
        assert "sk_1" not in shown
        assert "whsec_1" not in shown


@pytest.mark.parametrize(
    "content", [{"secretKey": 5, "webhookKey": "hush"}, {"secret": "hush"}, {"webhookKey": ["hush", 5]}, ["hush"]]
)
def test_a_file_of_another_shape_is_refused_without_showing_it(load: Load, tmp_path: Path, content: Any) -> None:
    settings = load(stripeCredentialsFile=_file(tmp_path, content))
    with pytest.raises(SettingsError, match=r"credentials\.json: ") as refused:
        read_stripe_credentials(settings, {})
    assert "hush" not in str(refused.value)


KEY = "obviously-fake-key-for-tests-only"


def test_the_key_of_the_directory_comes_from_the_environment_else_from_its_file(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    settings = load(directoryKeyFile=str(file))
    assert read_directory_key(settings, {}).get_secret_value() == KEY
    other = {"USAGE_DIRECTORY_KEY": f" {KEY}-2 "}
    assert read_directory_key(settings, other).get_secret_value() == f"{KEY}-2"
    assert read_directory_key(load(environ=other), other).get_secret_value() == f"{KEY}-2"
    assert KEY not in repr(read_directory_key(settings, {}))


@pytest.mark.holds("people.no-key")
def test_a_key_that_is_missing_short_or_unreadable_is_an_error_that_says_what_to_set(
    load: Load, tmp_path: Path
) -> None:
    (tmp_path / "short").write_text("hush")
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    for settings, environ, told in [
        (load(), {}, "`directoryKeyFile`: must be given for e-mails (got nothing), or USAGE_DIRECTORY_KEY"),
        (
            load(),
            {"USAGE_DIRECTORY_KEY": "hush"},
            "USAGE_DIRECTORY_KEY: must be at least 32",
        ),
        (load(directoryKeyFile=str(tmp_path / "short")), {}, "short: must be at least 32"),
        (load(directoryKeyFile=str(tmp_path / "none")), {}, "none: can't be read: No such file or directory"),
        (load(directoryKeyFile=str(tmp_path / "binary")), {}, "binary: not UTF-8"),
    ]:
        with pytest.raises(SettingsError) as refused:
            read_directory_key(settings, environ)
        assert told in str(refused.value)
        assert "hush" not in str(refused.value)
