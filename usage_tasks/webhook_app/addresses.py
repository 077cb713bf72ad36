"""Who sent a request, when proxies that we trust stand in between."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network
_IPV6_PREFIX: Final = 64


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Read addresses and networks, such as 10.0.0.0/8; raises ValueError that names a bad one."""
    return tuple(ip_network(text) for text in texts)


def address_of(peer: str, forwarded: str, trusted: Sequence[Network]) -> str:
    """The address that a request is counted for: the nearest one that is no trusted proxy.

    `peer` is the other end of the connection, with or without a port; `forwarded` all of X-Forwarded-For. What stands
    left of the first stranger is the stranger's own word. Of IPv6 it is the network, which a sender has whole.
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
