"""A receiver made of plain values."""

from collections.abc import Sequence

from usage_tasks.webhook_app.addresses import Network, parse_networks
from usage_tasks.webhook_app.installed import Installed
from usage_tasks.webhook_app.limiting import Limiter
from usage_tasks.webhook_app.publishing import Broker, Publisher
from usage_tasks.webhook_app.receiver import Receiver, Secrets


def build(installed: Installed) -> tuple[Receiver, Sequence[Network]]:
    """Make a receiver, and name the proxies to trust. Nothing is connected yet."""
    receiver = Receiver(
        secrets=Secrets(snapshot=installed.secrets, thin=installed.thin_secrets),
        publisher=Publisher(Broker(**installed.broker)),
        limiter=Limiter(installed.redis_url, refusals_per_minute=installed.refusals_per_minute),
    )
    return receiver, parse_networks(installed.trusted_proxies)
