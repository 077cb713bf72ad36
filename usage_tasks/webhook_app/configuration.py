"""`python -m usage_tasks.webhook_app.configuration`: the receiver's part of the settings, on standard output.

Holds secrets: for the receiver that started it and nobody else.
"""

import os
import sys

from usage_tasks.celery import app
from usage_tasks.settings import SettingsError, load_settings, read_stripe_credentials
from usage_tasks.webhook_app.installed import Installed, as_json
from usage_tasks.webhook_app.publishing import RECEIVE_TASK


def configured() -> Installed:
    """Read settings, credentials and Celery's configuration; raises SettingsError."""
    settings = load_settings(os.environ)
    credentials = read_stripe_credentials(settings)
    queue = app.amqp.router.route({}, RECEIVE_TASK)["queue"]
    return Installed(
        secrets=credentials.get_webhook_secrets(),
        thin_secrets=credentials.find_thin_webhook_secrets(),
        redis_url=settings.redis_url,
        refusals_per_minute=settings.server.refusals_per_minute,
        trusted_proxies=settings.server.trusted_proxies,
        broker={
            "url": app.conf.broker_write_url or app.conf.broker_url,
            "transport_options": dict(app.conf.broker_transport_options),
            "use_ssl": app.conf.broker_use_ssl,
            "queue": queue.name,
            "exchange": queue.exchange.name,
            "routing_key": queue.routing_key,
        },
    )


def main() -> int:
    """Print the values; answer 2 where the settings can't be used."""
    try:
        sys.stdout.write(as_json(configured()))
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
