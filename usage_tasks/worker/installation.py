"""No worker and no beat works with the Redis of another installation (docs/adr/0031)."""

import sys
import time
from datetime import timedelta
from functools import cache
from typing import Any, Final

import structlog
from celery import bootsteps
from celery.exceptions import WorkerShutdown
from redis.exceptions import RedisError

from usage_tasks.coordination.celery_internals.consumer import end_worker, start_before_tasks
from usage_tasks.coordination.installation import check_configured, check_server, claim, refuse_certificate
from usage_tasks.domain.errors import MisconfiguredError, RetryableError
from usage_tasks.runtime import runtime
from usage_tasks.storage.operations.installation import read_installation
from usage_tasks.storage.schema_version import open_database
from usage_tasks.wire.installations import InstallationIdentity
from usage_tasks.worker.quick_redis import quick_redis

LOOK_AGAIN: Final = timedelta(seconds=3)
"""How often a worker looks whether the Redis is still its own; after a flush it writes the id again."""
EXIT_CODE: Final = 2

_PAUSE_SECONDS: Final = 1

log = structlog.get_logger(__name__)


@cache
def our_installation() -> InstallationIdentity:
    """Return the identity in the database, read once a process.

    Raises as `open_database` does; MisconfiguredError if the settings name another installation.
    """
    settings = runtime().settings
    database = open_database(settings.sqlalchemy_url)  # of this call alone: a worker forks later
    try:
        with database.transaction() as connection:
            ours = read_installation(connection)
    finally:
        database.dispose()
    check_configured(settings, ours)
    return ours


def look_at_redis() -> None:
    """Check that Redis is of a kind that we work with, and ours; write its id if it is missing.

    Raises MisconfiguredError, with a line for the operator; RedisError if it is away; as `our_installation` does.
    """
    client, ours = quick_redis(), our_installation()
    check_server(client)
    if claim(client, ours, runtime().settings):
        log.info("installation.written", installation=ours.installation_id)


def look_or_refuse() -> None:
    """Do as `look_at_redis`; a certificate that is not accepted is a fault of the settings too."""
    try:
        look_at_redis()
    except RedisError as error:
        refuse_certificate(error, runtime().settings)
        raise


def await_installation() -> None:
    """Wait until the database has shown the installation's id, then look at Redis if it answers.

    Without the id no message may be taken. A Redis that is away is looked at when the worker has connected. Raises
    MisconfiguredError.
    """
    while True:
        try:
            look_or_refuse()
        except RetryableError as error:
            log.warning("installation.unknown", reason=str(error))
            time.sleep(_PAUSE_SECONDS)
        except RedisError:
            return
        else:
            return


class InstallationCheck(bootsteps.StartStopStep):
    """Looks before the worker takes a message, each time that it has connected, and then every few seconds."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **_: object) -> None:  # noqa: ARG002 - as Celery calls it
        self._entry: Any = None

    def start(self, consumer: Any) -> None:
        """Look, and go on looking. Raises WorkerShutdown, or ConnectionResetError to connect again."""
        try:
            look_at_redis()
        except MisconfiguredError as error:
            _refuse(error)
            raise WorkerShutdown(EXIT_CODE) from error
        except (RedisError, RetryableError) as error:
            time.sleep(_PAUSE_SECONDS)  # the next attempt is made at once
            raise ConnectionResetError(f"redis: the installation's id cannot be read: {error}") from error
        self._entry = consumer.timer.call_repeatedly(LOOK_AGAIN.total_seconds(), self._look)

    def _look(self) -> None:
        try:
            look_at_redis()
        except MisconfiguredError as error:
            _refuse(error)
            end_worker(EXIT_CODE)
        except (RedisError, RetryableError) as error:
            log.info("installation.not_seen", reason=str(error))

    def stop(self, consumer: Any) -> None:  # noqa: ARG002 - as Celery calls it
        """End, each time that the worker has lost its connection or must stop."""
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None

    def shutdown(self, consumer: Any) -> None:
        """End for good."""
        self.stop(consumer)


def add_installation_check(app: Any) -> None:
    """Let workers of an application look before they take messages."""
    app.steps["consumer"].add(InstallationCheck)
    start_before_tasks(InstallationCheck)


def exit_unless_ours() -> None:
    """Wait for the id in the database; exit with code 2 and one line if Redis is not ours."""
    try:
        await_installation()
    except MisconfiguredError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EXIT_CODE)


def _refuse(error: MisconfiguredError) -> None:
    sys.stderr.write(f"{error}\n")
    sys.stderr.flush()
