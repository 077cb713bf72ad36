"""Look at the broker before something is sent there: it must be the right installation's, and verified over TLS."""

import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from celery import Celery
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from kombu.exceptions import OperationalError
from redis.exceptions import AskError, ClusterError, RedisError

INSTALLATION_SETTING: Final = "usage_installation"
INSTALLATION_VARIABLE: Final = "USAGE_INSTALLATION"
_KEY: Final = "installation"
_SHOWN_MAX: Final = 120


class WrongBrokerError(Exception):
    """The broker or the result backend of the application is a wrong one. Nothing was sent; trying again is no help."""


class ForeignInstallationError(WrongBrokerError):
    """The Redis belongs to another installation than the application or USAGE_INSTALLATION names."""


def check_broker(app: Celery) -> None:
    """Raise WrongBrokerError if the broker must not be sent to; the errors of a broker that is away, if it is.

    The installation is compared if `app.conf["usage_installation"]` or USAGE_INSTALLATION names its id. A Redis that
    was flushed has no id until a worker has written it again; then nothing is compared.
    """
    url, tls = str(app.conf.broker_write_url or app.conf.broker_url), app.conf.broker_use_ssl
    if url.startswith("rediss://") and not tls and "ssl_cert_reqs" not in parse_qs(urlsplit(url).query):
        raise WrongBrokerError("`broker_url`: must have ?ssl_cert_reqs=required, or the certificate is not verified")
    wanted = app.conf.get(INSTALLATION_SETTING) or os.environ.get(INSTALLATION_VARIABLE)
    if not wanted:
        return
    held = _read_id(app)
    if held is not None and held != str(wanted).lower():
        got = held[:_SHOWN_MAX]
        raise ForeignInstallationError(f"`installation`: must be {wanted} in the broker's Redis (got {got})")


def check_backend(app: Celery) -> None:
    """Raise WrongBrokerError if the answers cannot be read: the installation writes them beside its messages."""
    backend: Any = app.backend
    if not isinstance(backend, RedisBackend):
        got = "nothing" if isinstance(backend, DisabledBackend) else str(app.conf.result_backend).partition(":")[0]
        raise WrongBrokerError(f"`result_backend`: must be the URL of the broker's Redis, for the answers (got {got})")
    ours, theirs = _prefix(app.conf.broker_transport_options), _prefix(app.conf.result_backend_transport_options)
    if ours != theirs:
        must_have = f"must have the global_keyprefix {ours!r} of the broker"
        raise WrongBrokerError(f"`result_backend_transport_options`: {must_have} (got {theirs!r})")


def describe_silence(app: Celery) -> str:
    """Return why nobody may have answered: no worker of an installation reads this prefix. Empty if that is not so."""
    try:
        held = _read_id(app)
    except (OperationalError, RedisError, OSError):
        return ""
    if held is not None:
        return ""
    got = f"{_prefix(app.conf.broker_transport_options)!r}, under which there is no installation in this Redis"
    return f"`global_keyprefix`: must be that of the installation (got {got})"


def _prefix(options: Mapping[str, Any] | None) -> str:
    return str((options or {}).get("global_keyprefix") or "")


def refuse_cluster(error: BaseException) -> None:
    """Raise WrongBrokerError if a broker failed because it is a node of a Redis Cluster."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (AskError, ClusterError)):
            raise WrongBrokerError("`broker_url`: must name one Redis (got a node of a Redis Cluster)") from error
        cause = cause.__cause__ or cause.__context__


def _read_id(app: Celery) -> str | None:
    with app.producer_or_acquire() as producer:
        channel: Any = producer.channel
        # kombu's client puts the prefix before the keys of its own commands alone.
        held = channel.client.get(f"{channel.global_keyprefix}{_KEY}")
    return None if held is None else str(held.decode(errors="replace")).partition("@")[0]
