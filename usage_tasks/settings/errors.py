"""The error of unusable settings: every problem at once, and never a secret."""

import json
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

_SHOWN_LENGTH_MAX: Final = 80
# Greedy up to the last @: a password may itself hold an @ or a slash that nobody has escaped.
_USER_AND_PASSWORD: Final = re.compile(r"(?P<scheme>://)(?P<user>[^:@/]*).*@", re.DOTALL)
# Where a port belongs but no number is, a password may stand whose @host was forgotten.
_NO_PORT: Final = re.compile(r"(?P<before>://[^:@/]*):(?![0-9]+(?:[/?#]|$))[^@/]+$")
_NO_PORT_OF_A_HOST: Final = re.compile(r"(?P<before>@[^@/?#]*?):(?![0-9]*(?:[,/?#]|$))[^@/?#,]+")
_PASSWORD_PARAMETER: Final = re.compile(r"(?P<name>(?:password|secret|_key)=)[^&\s]*", re.IGNORECASE)
_STRIPE_SECRET: Final = re.compile(r"\b(?P<kind>sk|rk|whsec)_\w+")


class UnknownOptionError(ValueError):
    """An option of a URL cannot be used. Its message has the option's name, and no value, so it may be shown."""


class SettingsError(ValueError):
    """The settings can't be used; entry points end with exit code 2 and this message."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)  # from this it is built again in another process

    def __str__(self) -> str:
        """Return a heading, and a line for each problem."""
        return "\n".join(["settings can't be used:", *(f"- {problem}" for problem in self.problems)])

    @property
    def line(self) -> str:
        """The problems in one line, for a log."""
        return "; ".join(self.problems)


class StripeNotConfiguredError(SettingsError):
    """No setting names a key of Stripe, which a call needs. The settings are valid all the same: Stripe is optional."""

    def __str__(self) -> str:
        """Return one line."""
        return self.line


def mask(text: str) -> str:
    """The text with the passwords of URLs and the secret keys of Stripe taken out."""
    masked = _USER_AND_PASSWORD.sub(r"\g<scheme>\g<user>:***@", text)
    masked = _NO_PORT.sub(r"\g<before>:***", masked)
    masked = _NO_PORT_OF_A_HOST.sub(r"\g<before>:***", masked)
    masked = _PASSWORD_PARAMETER.sub(r"\g<name>***", masked)
    return _STRIPE_SECRET.sub(r"\g<kind>_***", masked)


def show(value: object, *, secret: bool) -> str:
    """A value as an error message may repeat it: short, on one line, without passwords.

    A secret value is shown only when it is a URL, whose password can be found and taken out.
    """
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        if secret and "://" not in value:
            return '""' if not value else "***"
        shown = json.dumps(mask(value), ensure_ascii=False)
    else:
        shown = str(value) if isinstance(value, Decimal) else json.dumps(value)
    return shown if len(shown) <= _SHOWN_LENGTH_MAX else f"{shown[:_SHOWN_LENGTH_MAX]}..."
