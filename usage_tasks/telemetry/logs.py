"""One line of JSON per event, from any logger: structlog, Celery or a library.

Our own lines, at least one per task, are written directly: a LogRecord of the standard library would cost more than
all other overhead of a task. Lines of others go through their handler, to the same processors.
"""

import json
import logging
import sys
from contextlib import suppress
from typing import Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]

_TOLD_BY_OUR_LINE: Final = ("celery.worker.strategy", "celery.app.trace")
"""They log that a task was received and how it ended, which our own line of the outcome has; their errors stay."""

_encode = json.JSONEncoder(default=repr).encode


def _render(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _encode(event)


class _Line:
    """The sink of structlog's lines: standard error, one whole line per write.

    A line that cannot be written is dropped, as the standard library does: a full disk must not stop billing.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name

    def write(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")

    debug = info = warning = error = critical = exception = write


def configure_logging(level: str = "INFO") -> None:
    """Send everything to standard error as JSON; Celery's own set-up is replaced by it."""
    structlog.configure(
        processors=[*_SHARED, _render],
        logger_factory=_Line,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The SDK logs bodies at debug and one line per call at info; the gateway's metrics show the calls without bodies.
    logging.getLogger("stripe").setLevel(logging.WARNING)
    # urllib3 logs each path at debug, and with it the ids of payment methods.
    logging.getLogger("urllib3").setLevel(logging.INFO)
    # Celery's pool logs the arguments of every task at debug.
    logging.getLogger("celery.pool").setLevel(logging.INFO)
    if logging.getLevelName(level) > logging.DEBUG:
        for name in _TOLD_BY_OUR_LINE:
            logging.getLogger(name).setLevel(logging.WARNING)
