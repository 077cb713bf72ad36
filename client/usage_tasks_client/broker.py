"""Look at the broker before something is sent there: it must be the right installation's, and verified over TLS."""

import os
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from celery import Celery
from redis.exceptions import AskError, ClusterError

INSTALLATION_SETTING: Final = "usage_installation"
INSTALLATION_VARIABLE: Final = "USAGE_INSTALLATION"
_KEY: Final = "installation"
_SHOWN_MAX: Final = 120


class WrongBrokerError(Exception):
    """The broker of the application is not one to send to. Nothing was sent; trying again does not help."""


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
