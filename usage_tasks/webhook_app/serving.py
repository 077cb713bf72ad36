"""The server in front of the receiver, with the receiver's limits."""

import resource
import sys
from typing import Final

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import Server

from usage_tasks.domain.errors import MisconfiguredError
from usage_tasks.listening import check_port, hold_port
from usage_tasks.telemetry.logs import configure_logging
from usage_tasks.webhook_app.configuration import read_configuration

TARGET: Final = "usage_tasks.webhook_app:app"
SETTING: Final = "`server` in the configuration file"
_USAGE_ERROR: Final = 2
CONNECTIONS_MAX: Final = 8192
"""Senders that never finish cost a socket each, for as long as a body or a head may take."""
HEAD_MILLISECONDS_MAX: Final = 10_000
HTTP_BUFFER_BYTES_MAX: Final = 64 * 1024
WORKER_KILL_SECONDS: Final = 4
"""Longer than the broker's time-outs: requests whose bodies are there are answered before the end."""
# The server's own messages go where all others go, through the same formatter.
SERVER_LOGGING: Final = {"handlers": {}, "loggers": {"_granian": {"handlers": [], "propagate": True}}}


def serve(address: str, port: int) -> None:
    """Run the receiver until SIGTERM or SIGINT: it then takes no new requests, and answers the requests it has taken.

    Raises SystemExit with code 2, after one line, if the settings can't be used or another process listens there.
    """
    configure_logging()
    read_configuration()  # a wrong setting ends it before it listens
    try:
        run_server(TARGET, address, port)
    except MisconfiguredError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(_USAGE_ERROR) from error


def run_server(target: str, address: str, port: int) -> None:
    """Run an application, named as `module:attribute`, in one process that is replaced when it dies.

    Raises MisconfiguredError if it cannot listen, or if another process listens there.
    """
    _raise_file_limit()
    address = check_port(SETTING, address, port)
    held = hold_port(SETTING, address, port)
    Server(
        target,
        address=address,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        websockets=False,
        workers=1,
        backlog=CONNECTIONS_MAX,
        backpressure=CONNECTIONS_MAX,
        http1_settings=HTTP1Settings(header_read_timeout=HEAD_MILLISECONDS_MAX, max_buffer_size=HTTP_BUFFER_BYTES_MAX),
        respawn_failed_workers=True,
        workers_kill_timeout=WORKER_KILL_SECONDS,
        log_level=LogLevels.warning,
        log_dictconfig=SERVER_LOGGING,
    ).serve()
    if held is not None:
        held.close()


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
