"""Three kinds of failure, distinguished by the right reaction to them."""

from datetime import datetime, timedelta
from typing import Final

_SHOWN_LENGTH_MAX: Final = 80


def show(value: object) -> str:
    """Return a value as an error message shows it: its repr, cut at 80 characters."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_LENGTH_MAX else f"{shown[:_SHOWN_LENGTH_MAX]}..."


class UsageError(Exception):
    """The root of the errors this system raises on purpose."""


class RetryableError(UsageError):
    """A passing failure: the same call may succeed later, after `retry_after` at the earliest if it is given."""

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotAdmittedError(RetryableError):
    """No call was made: the remote side is taken to be away, asked for a pause, or its calls a second are used up.

    `busy`: only the latter two; others are calling.
    """

    def __init__(self, message: str, *, retry_after: timedelta | None = None, busy: bool = False) -> None:
        super().__init__(message, retry_after=retry_after)
        self.busy = busy


class ConnectionSettingsError(RetryableError):
    """A server does not accept the settings of a connection: its address, the user, the password, the database.

    A worker tries again: passwords and servers change while it runs. A command gives up with exit code 2.
    """


class TooEarlyError(RetryableError):
    """The remote side takes nothing dated so far ahead of its own clock, `remote_at` where it showed it.

    Neither the input nor an account is at fault: two clocks differ, and the same input is taken later.
    """

    def __init__(self, message: str, *, remote_at: datetime | None) -> None:
        super().__init__(message)
        self.remote_at = remote_at


class PermanentError(UsageError):
    """This input can never succeed: park it, alert a person, and go on with the others."""


class NotFoundError(PermanentError):
    """The requested object does not exist."""


class DeclinedError(PermanentError):
    """A payer's bank declined. This is an answer and no failure: the payer must hear of it; nothing needs repair."""

    def __init__(self, message: str, decline_code: str | None = None) -> None:
        super().__init__(message)
        self.decline_code = decline_code


class SpentKeyError(PermanentError):
    """An idempotency key is spent: look at what the remote side has, then go on with a fresh key.

    `answered`: the answer under the key is final. Otherwise a call with it may still run, and a look comes too early.
    """

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, which Celery does to an exception that crosses from a child to its worker."""
        return _spent_key_error, (str(self), self.answered)


def _spent_key_error(message: str, answered: bool) -> SpentKeyError:  # noqa: FBT001 - as pickle calls it
    return SpentKeyError(message, answered=answered)


class TooOldError(PermanentError):
    """The remote side takes nothing dated so long before its own clock, `remote_at` where it showed it."""

    def __init__(self, message: str, *, remote_at: datetime | None) -> None:
        super().__init__(message)
        self.remote_at = remote_at


class AccessDeniedError(PermanentError):
    """The remote side refuses all our calls: no account is to blame, so none is parked for it."""


class MisconfiguredError(PermanentError):
    """The settings do not fit the objects that they name. The message lists every correction."""


class InvalidInputError(PermanentError):
    """A caller's value is wrong. The message names the field, what the value must be, and the value.

    `allowed` completes the words "must be".
    """

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(self._word(field, value, allowed))
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[type["InvalidInputError"], tuple[str, object, str]]:
        """Survive pickling, which Celery does to an exception that crosses from a child to its worker."""
        return type(self), (self.field, self.value, self.allowed)

    def _word(self, field: str, value: object, allowed: str) -> str:
        return f"`{field}`: must be {allowed} (got {show(value)})"


class NoSuchError(InvalidInputError):
    """A caller names an object that does not exist. `allowed` is the kind of object, such as "session"."""

    def _word(self, field: str, value: object, allowed: str) -> str:
        return f"`{field}`: no such {allowed} (got {show(value)})"


class StaleVersionError(PermanentError):
    """A compare-and-set lost: the caller decided on a version that is no longer the current one."""


class StaleEpochError(PermanentError):
    """A job's run lost its right to write: another one has begun, and does the work."""


class InvariantError(UsageError):
    """Our own bug: stop before money moves."""
