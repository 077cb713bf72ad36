"""Secrets, read where they are used and nowhere else: Stripe's, and the key of the directory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic.alias_generators import to_camel

from usage_tasks.settings.environment import DIRECTORY_KEY_VARIABLE
from usage_tasks.settings.errors import SettingsError, StripeNotConfiguredError
from usage_tasks.settings.model import Settings
from usage_tasks.settings.tree import read_object

SECRET_KEY_VARIABLE: Final = "STRIPE_SECRET_KEY"  # noqa: S105 - the name of the variable, not the secret
WEBHOOK_SECRET_VARIABLE: Final = "STRIPE_WEBHOOK_SECRET"  # noqa: S105 - as above
THIN_SECRET_VARIABLE: Final = "STRIPE_THIN_WEBHOOK_SECRET"  # noqa: S105 - as above

DIRECTORY_KEY_LENGTH_MIN: Final = 32


class StripeCredentials(BaseModel):
    """The Stripe secrets that a process may know: the receiver needs no key, a worker no webhook secret."""

    model_config = ConfigDict(frozen=True)

    publishable_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    # More than one while a secret is rolled.
    webhook_keys: tuple[SecretStr, ...] = ()
    thin_webhook_keys: tuple[SecretStr, ...] = ()
    origin: str

    def get_secret_key(self) -> str:
        """The key to call Stripe with."""
        if self.secret_key is None:
            raise SettingsError([_missing(self.origin, "secretKey", SECRET_KEY_VARIABLE)])
        return self.secret_key.get_secret_value()

    def get_webhook_secrets(self) -> tuple[str, ...]:
        """The secrets that webhooks may be signed with, at least one."""
        if not self.webhook_keys:
            raise SettingsError([_missing(self.origin, "webhookKey", WEBHOOK_SECRET_VARIABLE)])
        return tuple(secret.get_secret_value() for secret in self.webhook_keys)

    def find_thin_webhook_secrets(self) -> tuple[str, ...]:
        """The secrets that thin events may be signed with; none where the installation takes no thin events."""
        return tuple(secret.get_secret_value() for secret in self.thin_webhook_keys)


class _File(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)

    publishable_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    webhook_key: SecretStr | list[SecretStr] | None = None
    thin_webhook_key: SecretStr | list[SecretStr] | None = None


def read_stripe_credentials(settings: Settings, environ: Mapping[str, str] = os.environ) -> StripeCredentials:
    """Stripe's secrets from the environment, else from the credentials file.

    STRIPE_SECRET_KEY, STRIPE_WEBHOOK_SECRET and STRIPE_THIN_WEBHOOK_SECRET (comma separated) override the file, which
    may be absent as soon as one of the first two is given. Raises StripeNotConfiguredError if neither is given, and
    SettingsError for a wrong file. Neither error repeats a secret.
    """
    key = _present([environ.get(SECRET_KEY_VARIABLE, "")])
    webhook = _present(environ.get(WEBHOOK_SECRET_VARIABLE, "").split(","))
    thin = _present(environ.get(THIN_SECRET_VARIABLE, "").split(","))
    name = settings.stripe_credentials_file
    if (key and webhook) or (not name and (key or webhook)):
        file, origin = _File(), "environment"
    elif name is None:
        variables = f"{SECRET_KEY_VARIABLE} and {WEBHOOK_SECRET_VARIABLE}"
        rule = f"`stripeCredentialsFile`: must be given (got nothing), or {variables}"
        raise StripeNotConfiguredError([f"Stripe is not configured: {rule}"])
    elif (key or webhook) and not Path(name).exists():
        file, origin = _File(), f"{name} (no such file)"
    else:
        file, origin = _read(name), name
    return StripeCredentials(
        publishable_key=file.publishable_key,
        secret_key=key[0] if key else file.secret_key,
        webhook_keys=tuple(webhook or _several(file.webhook_key)),
        thin_webhook_keys=tuple(thin or _several(file.thin_webhook_key)),
        origin=origin,
    )


def is_stripe_configured(settings: Settings, environ: Mapping[str, str] = os.environ) -> bool:
    """Return True if the settings name prices of Stripe or a credentials file, or the environment has Stripe's key."""
    named = settings.stripe_prices.by_key() or settings.stripe_credentials_file
    return bool(named or _present([environ.get(SECRET_KEY_VARIABLE, "")]))


def read_directory_key(settings: Settings, environ: Mapping[str, str] = os.environ) -> SecretStr:
    """Return the key for digests of e-mails, from the environment, else from the file that the settings name.

    Raises SettingsError, which names the setting and never repeats a key.
    """
    name = settings.directory_key_file
    if key := environ.get(DIRECTORY_KEY_VARIABLE, "").strip():
        origin = f"environment variable {DIRECTORY_KEY_VARIABLE}"
    elif name is None:
        raise SettingsError(
            [f"`directoryKeyFile`: must be given for e-mails (got nothing), or {DIRECTORY_KEY_VARIABLE}"]
        )
    else:
        origin, key = name, _read_key(Path(name))
    if len(key) < DIRECTORY_KEY_LENGTH_MIN:
        allowed = f"at least {DIRECTORY_KEY_LENGTH_MIN} random characters, as of `openssl rand -hex 32`"
        raise SettingsError([f"{origin}: must be {allowed} (got {len(key)} characters)"])
    return SecretStr(key)


def _missing(origin: str, key: str, variable: str) -> str:
    return f"{origin}: `{key}`: must be given (got nothing); {variable} sets it too"


def _read_key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = f"can't be read: {error.strerror}" if isinstance(error, OSError) else "not UTF-8"
        raise SettingsError([f"{path}: {reason}"]) from None


def _several(held: SecretStr | list[SecretStr] | None) -> list[SecretStr]:
    if isinstance(held, list):
        return held
    return [] if held is None else [held]


def _present(texts: list[str]) -> list[SecretStr]:
    return [SecretStr(text.strip()) for text in texts if text.strip()]


def _read(name: str) -> _File:
    values, problems = read_object(Path(name))
    if values is None or problems:
        raise SettingsError(problems)
    try:
        file = _File.model_validate(values)
    except ValidationError as error:
        keys = sorted({str(item["loc"][0]) for item in error.errors(include_input=False)})
        rule = "must be text, or for webhookKey and thinWebhookKey a list of texts (got a value that is not shown)"
        raise SettingsError([f"{name}: `{key}`: {rule}" for key in keys]) from None
    return file
