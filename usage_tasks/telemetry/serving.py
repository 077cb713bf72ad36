"""The endpoint that Prometheus scrapes, by the environment of a process."""

import os
from collections.abc import Mapping
from typing import Final

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, start_http_server

from usage_tasks.telemetry.multiprocess import MULTIPROC_VARIABLE, WholeFilesCollector

log = structlog.get_logger(__name__)

PORT_VARIABLE: Final = "USAGE_METRICS_PORT"
ADDRESS_VARIABLE: Final = "USAGE_METRICS_ADDRESS"
ADDRESS: Final = "127.0.0.1"
PORT_MAX: Final = 65_535


def serve_as_configured(environ: Mapping[str, str] = os.environ, *, forks: bool = False) -> None:
    """Return Prometheus at USAGE_METRICS_ADDRESS (127.0.0.1) and USAGE_METRICS_PORT; without a port do nothing.

    With `forks` child processes do the work: without PROMETHEUS_MULTIPROC_DIR they are not counted. A fault is a line
    of the log: a process that cannot show its metrics still does its work.
    """
    port = environ.get(PORT_VARIABLE)
    if not port:
        return
    if not port.isdecimal() or not 1 <= int(port) <= PORT_MAX:
        log.error("metrics.not_served", reason=f"{PORT_VARIABLE}: must be a port from 1 to {PORT_MAX} (got {port!a})")
        return
    address = environ.get(ADDRESS_VARIABLE) or ADDRESS
    try:
        serve_metrics(int(port), address)
    except OSError as error:
        where = f"{ADDRESS_VARIABLE}, {PORT_VARIABLE}: {address!a}, port {port}"
        log.error("metrics.not_served", reason=f"{where}: {error.strerror or error}")
        return
    if forks and MULTIPROC_VARIABLE not in environ:
        advice = f"set {MULTIPROC_VARIABLE} to a directory of this worker's own"
        log.error("metrics.incomplete", reason=f"the tasks of this worker's child processes are not counted: {advice}")


def serve_metrics(port: int, address: str = ADDRESS) -> None:
    """Return Prometheus on a port, for this process and, in multiprocess mode, its children. Raises OSError."""
    registry = REGISTRY
    if MULTIPROC_VARIABLE in os.environ:
        registry = CollectorRegistry()
        registry.register(WholeFilesCollector(os.environ[MULTIPROC_VARIABLE]))
    start_http_server(port, addr=address, registry=registry)
