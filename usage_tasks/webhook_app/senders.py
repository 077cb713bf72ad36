"""The address of a sender, and how many refused requests it may send a minute before all of its are refused unread.

Counted in Redis, so that every receiver of an installation counts together. Only refused requests count: events that
Stripe has signed are never limited, however many, and cost no call here. Without Redis no sender is limited.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, cast

import structlog
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis import RedisError

Network = IPv4Network | IPv6Network
_KEY: Final = "webhook"
REMEMBERED_MAX: Final = 10_000
_IPV6_PREFIX: Final = 64
_PAUSE_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Read addresses and networks, such as 10.0.0.0/8; raises ValueError that names a bad one."""
    return tuple(ip_network(text) for text in texts)


def address_of(peer: str, forwarded: str, trusted: Sequence[Network]) -> str:
    """Return the address that a request is counted for: the nearest address that is no trusted proxy.

    `peer` is the other end of the connection, with or without a port; `forwarded` is all of X-Forwarded-For. Entries
    left of the first untrusted address are that address's own claim. For IPv6 it is the network, for a sender has all
    of its network.
    """
    nearest = _parse(peer)
    if nearest is None:
        return "unknown"
    for text in reversed(forwarded.split(",") if forwarded else []):
        if not _is_in(nearest, trusted):
            break
        further = _parse(text.strip())
        if further is None:
            break
        nearest = further
    if isinstance(nearest, IPv6Address):
        return str(ip_network((nearest, _IPV6_PREFIX), strict=False).network_address)
    return str(nearest)


def _is_in(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """Read `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]:5`."""
    host = text
    if text.startswith("["):
        host = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        host = text.partition(":")[0]
    try:
        parsed = ip_address(host)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


class _Storage(RedisStorage):
    # The library imports every client that it could use; only this one is used.
    DEPENDENCIES: Any = {"redis": cast("dict[str, Any]", RedisStorage.DEPENDENCIES)["redis"]}  # noqa: RUF012 - as the library declares it


class Limiter:
    """Counts refusals by address; 0 a minute switches it off. Safe to use from any number of threads."""

    def __init__(self, redis_url: str, *, refusals_per_minute: int, prefix: str = "usage:") -> None:
        self._item = RateLimitItemPerMinute(refusals_per_minute) if refusals_per_minute else None
        storage = _Storage(
            redis_url,
            key_prefix=prefix + _KEY,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            socket_timeout=_TIMEOUT_SECONDS,
        )
        self._strategy = FixedWindowRateLimiter(storage)
        self._until: OrderedDict[str, float] = OrderedDict()
        self._paused_until = 0.0

    def seconds_left(self, remote: str) -> int:
        """How long an address that sent too much is still limited; 0: it is not. Asks nobody."""
        until = self._until.get(remote)
        if until is None:
            return 0
        left = until - time.monotonic()
        if left <= 0:
            self._until.pop(remote, None)
            return 0
        return int(left) + 1

    def count_refusal(self, remote: str) -> None:
        """Count one refused request. The address is limited from the request on that reaches the limit."""
        if self._item is None or time.monotonic() < self._paused_until:
            return
        try:
            self._strategy.hit(self._item, remote)
            stats = self._strategy.get_window_stats(self._item, remote)
        except RedisError as error:
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            log.warning("webhook.limiter_away", reason=type(error).__name__)
            return
        if stats.remaining <= 0:
            self._until[remote] = time.monotonic() + max(1.0, stats.reset_time - time.time())
            while len(self._until) > REMEMBERED_MAX:
                self._until.popitem(last=False)
            log.warning("webhook.limited", remote=remote)
