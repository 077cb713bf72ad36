"""The part of the settings that the receiver needs, read by a short-lived process of its own.

The processes of the receiver then hold no pydantic, no Celery and nothing that the settings import: 61 MB together
instead of 75, for 0.8 s at the start (docs/adr/0021). `python -m usage_tasks.webhook_app.configuration` prints it,
secrets included, for the receiver that started it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Final

RECEIVE_TASK: Final = "stripe.receive_event"
_READ_SECONDS_MAX: Final = 60
_USAGE_ERROR: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where messages go: plain values of Celery's configuration. Exchange and key are how the queue is declared."""

    url: str
    transport_options: Mapping[str, Any]
    use_ssl: Any
    queue: str
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Plain values only: they travel as JSON. Several secrets while one is rolled; no thin one, no thin endpoint."""

    secrets: Sequence[str]
    thin_secrets: Sequence[str]
    redis_url: str
    prefix: str = "usage:"
    installation: str | None = None
    refusals_per_minute: int
    trusted_proxies: Sequence[str]
    broker: Broker


@cache
def read_configuration() -> Configuration:
    """Have a process of its own read the configuration, once; processes that are forked from this one inherit it.

    Raises SystemExit with the exit code of that process, which has written what is wrong to standard error.
    """
    command = [sys.executable, "-m", "usage_tasks.webhook_app.configuration"]
    read = subprocess.run(command, stdout=subprocess.PIPE, timeout=_READ_SECONDS_MAX, check=False)  # noqa: S603 - ours
    if read.returncode:
        raise SystemExit(read.returncode)
    values = json.loads(read.stdout)
    return Configuration(**values | {"broker": Broker(**values["broker"])})


def collect_configuration() -> Configuration:
    """Read settings, credentials and Celery's configuration; raises SettingsError."""
    # Imported here, in the short-lived process alone.
    from usage_tasks.celery import app  # noqa: PLC0415
    from usage_tasks.coordination.celery_internals.routing import find_queue  # noqa: PLC0415
    from usage_tasks.settings import load_settings, read_stripe_credentials  # noqa: PLC0415

    settings = load_settings(os.environ)
    _check_redis(settings)
    credentials = read_stripe_credentials(settings)
    queue = find_queue(app, RECEIVE_TASK)
    return Configuration(
        secrets=credentials.get_webhook_secrets(),
        thin_secrets=credentials.find_thin_webhook_secrets(),
        redis_url=settings.redis_url,
        prefix=settings.redis.prefix,
        installation=settings.installation,
        refusals_per_minute=settings.server.refusals_per_minute,
        trusted_proxies=settings.server.trusted_proxies,
        broker=Broker(
            url=app.conf.broker_write_url or app.conf.broker_url,
            transport_options=dict(app.conf.broker_transport_options),
            use_ssl=app.conf.broker_use_ssl,
            queue=queue.name,
            exchange=queue.exchange.name,
            routing_key=queue.routing_key,
        ),
    )


def _check_redis(settings: Any) -> None:
    """Raise MisconfiguredError for a Redis Cluster, or a certificate that is not accepted. It may be away."""
    from redis.exceptions import RedisError  # noqa: PLC0415

    from usage_tasks.coordination.installation import check_server, refuse_certificate  # noqa: PLC0415
    from usage_tasks.coordination.keyspace import open_redis  # noqa: PLC0415

    try:
        with open_redis(settings, socket_timeout=1, socket_connect_timeout=1, retry=None) as client:
            check_server(client)
    except RedisError as error:
        refuse_certificate(error, settings)


def main() -> int:
    """Print the configuration; return 2 if the settings can't be used."""
    from usage_tasks.domain.errors import MisconfiguredError  # noqa: PLC0415
    from usage_tasks.settings import SettingsError  # noqa: PLC0415

    try:
        sys.stdout.write(json.dumps(asdict(collect_configuration())))
    except (SettingsError, MisconfiguredError) as error:
        sys.stderr.write(f"{error}\n")
        return _USAGE_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
