"""One line of JSON an event, whoever logs it: structlog, Celery or a library."""

import logging
import sys

import structlog
from structlog.typing import Processor

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


def configure_logging(level: str = "INFO") -> None:
    """Send everything to standard error through one formatter; Celery's own set-up is replaced by it."""
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The SDK logs bodies at debug and one line a call at info; the gateway's metrics say the same without them.
    logging.getLogger("stripe").setLevel(logging.WARNING)
    # urllib3 logs each path at debug, and with it the ids of payment methods.
    logging.getLogger("urllib3").setLevel(logging.INFO)
    # Celery's pool logs the arguments of every task at debug.
    logging.getLogger("celery.pool").setLevel(logging.INFO)
