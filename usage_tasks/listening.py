"""A port for one server: what starts on a port that is taken is refused, in words, before it serves anything.

Two servers that set SO_REUSEPORT share a port without an error, and each gets a part of the requests: a forgotten
receiver with old secrets would answer its part of Stripe's events with 400.
"""

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from usage_tasks.domain.errors import MisconfiguredError


@contextmanager
def translated(setting: str, address: str, port: int) -> Iterator[None]:
    """Raise MisconfiguredError, which names the setting, if a server cannot listen."""
    try:
        yield
    except OSError as error:
        reason = "another process listens there" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise MisconfiguredError(f"{setting}: can't listen at {address}, port {port}: {reason}") from error


def check_port(setting: str, address: str, port: int) -> str:
    """Return the IP address to listen at. Raises MisconfiguredError if it is not ours, or a process listens there."""
    with translated(setting, address, port):
        flags = socket.AI_PASSIVE
        family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=flags)[0]
        with socket.socket(family, kind, protocol) as probe:
            # A closed connection is not in the way. SO_REUSEPORT is not set: a socket that has set it is.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    return str(place[0])


def hold_port(setting: str, address: str, port: int) -> socket.socket | None:
    """Be the only server of ours at an address and port, as long as the returned socket is open.

    `check_port` sees a server that listens; of two that start at once neither does yet. On Linux a socket's name
    decides, which ends with its process. Raises MisconfiguredError if another process holds it.
    """
    if sys.platform != "linux":
        return None
    with translated(setting, address, port):
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            held.bind(f"\0usage-tasks:{address}:{port}")
        except OSError:
            held.close()
            raise
    return held
