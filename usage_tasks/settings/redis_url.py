"""The URL of Redis, brought into the one form that redis-py, Kombu, Celery's result backend and Flower read alike.

Over TLS (`rediss://`) each of them has a default and a spelling of its own: Kombu verifies no certificate unless the
URL asks for it, and the result backend refuses a URL that does not. So the URL always contains it here.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from usage_tasks.settings.errors import UnknownOptionError

REQUIRED: Final = "required"
UNVERIFIED: Final = "none"
_CERT_REQS: Final = "ssl_cert_reqs"
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS: Final = "rediss"
# To a client `optional` is as strict as `required`: a server always shows its certificate.
_VERIFICATION: Final[Mapping[str, str]] = {
    "required": REQUIRED,
    "optional": REQUIRED,
    "none": UNVERIFIED,
    "cert_required": REQUIRED,
    "cert_optional": REQUIRED,
    "cert_none": UNVERIFIED,
}
_PREFIX: Final = re.compile(r"[A-Za-z0-9._:-]{1,63}:")


def parse_redis_url(value: str) -> str:
    """Return the URL; over TLS with the option to verify the certificate, unless it has `ssl_cert_reqs=none`.

    Raises UnknownOptionError with the name of an option of TLS that not all clients understand; ValueError, without a
    part of the URL, for anything else.
    """
    try:
        parts = urlsplit(value)
        known = parts.scheme in {"redis", _TLS} and parts.hostname and parts.port != 0
    except ValueError:
        # Raised from nothing: urllib's message repeats what it took for a port, which may be a password.
        raise ValueError("not a Redis URL") from None
    if not known:
        raise ValueError("not a Redis URL")
    place, _, query = value.partition("?")
    given = [each for each in query.split("&") if each.startswith("ssl_")]
    if parts.scheme != _TLS:
        if given:
            raise UnknownOptionError(f"option {given[0].partition('=')[0]!r} needs rediss://")
        return value
    options = _parse_tls(given)
    others = [each for each in query.split("&") if each and each not in given]
    written = [f"{name}={quote(text, safe='/')}" for name, text in options.items()]
    return f"{_TLS}{place[len(_TLS) :]}?{'&'.join([*others, *written])}"


def read_tls(url: str) -> dict[str, str] | None:
    """Return the options of TLS in a URL as redis-py and Celery name them; None without TLS."""
    parts = urlsplit(url)
    if parts.scheme != _TLS:
        return None
    return {name: text for name, text in parse_qsl(parts.query) if name == _CERT_REQS or name in _FILES}


def parse_prefix(value: str) -> str:
    """Return the prefix of an installation's keys; no character of a glob, for keys are looked for by patterns."""
    if not _PREFIX.fullmatch(value):
        raise ValueError("not a prefix")
    return value


def _parse_tls(given: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for each in given:
        name, _, text = each.partition("=")
        value = unquote(text)
        if name in options:
            raise UnknownOptionError(f"option {name!r} twice")
        if name == _CERT_REQS and value.lower() in _VERIFICATION:
            options[name] = _VERIFICATION[value.lower()]
        elif name in _FILES and value:
            options[name] = value
        else:
            known = "required or none" if name == _CERT_REQS else ", ".join((_CERT_REQS, *_FILES))
            raise UnknownOptionError(f"option {name!r}: must be {known}")
    return {_CERT_REQS: REQUIRED} | options
