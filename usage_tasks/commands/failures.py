"""How a command ends that failed: its line and its exit code.

2 is a mistake in the command or in the settings; 75 is a server that may be back later.
"""

import socket
import ssl
from collections.abc import Iterator
from typing import Final, NamedTuple

from kombu.exceptions import OperationalError
from redis import exceptions as redis_errors

from usage_tasks.commands import TRY_AGAIN, USAGE_ERROR
from usage_tasks.domain.errors import ConnectionSettingsError, PermanentError, RetryableError
from usage_tasks.settings import SettingsError

_REDIS_REFUSES: Final = (
    redis_errors.AuthenticationError,
    redis_errors.AuthenticationWrongNumberOfArgsError,
    redis_errors.AuthorizationError,
    redis_errors.NoPermissionError,
)
"""A wrong password, an unknown user, a user whose ACL is too narrow."""
_NO_SUCH_DATABASE: Final = "DB index"
_OF_REDIS: Final = (redis_errors.RedisError, OperationalError)


class Failure(NamedTuple):
    """The line for standard error, and the exit code."""

    line: str
    exit_code: int


def find_failure(error: Exception) -> Failure | None:
    """Return how a command ends by this error; None for a bug, whose traceback is wanted."""
    if isinstance(error, PermanentError | SettingsError | ConnectionSettingsError):
        return Failure(str(error), USAGE_ERROR)
    if _is_alembics(error):
        return Failure(f"database schema: {_first_line(error)}: it is a newer version's", USAGE_ERROR)
    if not isinstance(error, (RetryableError, *_OF_REDIS)):
        return None
    # The clients of Redis and Celery wrap the error that has the cause. Causes of another server's error do not count.
    of_redis = next((each for each in _causes(error) if isinstance(each, _OF_REDIS)), None)
    refused = next((each for each in _causes(of_redis) if _is_refused_by_redis(each)), None)
    if refused is not None:
        return Failure(f"redis or REDIS_URL: {_first_line(refused)}", USAGE_ERROR)
    return Failure(str(error) if isinstance(error, RetryableError) else f"redis: {_first_line(error)}", TRY_AGAIN)


def _is_alembics(error: Exception) -> bool:
    """Return True for an error of Alembic's own. By its name, for only `migrate` imports the library."""
    return (type(error).__module__.partition(".")[0], type(error).__name__) == ("alembic", "CommandError")


def _is_refused_by_redis(error: BaseException) -> bool:
    if isinstance(error, redis_errors.ResponseError) and _NO_SUCH_DATABASE in str(error):
        return True
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_NONAME  # an unknown host; by other codes the resolver is away
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    return isinstance(error, _REDIS_REFUSES)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, its cause, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
