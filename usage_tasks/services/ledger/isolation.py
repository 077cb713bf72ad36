"""Do work in sets, and let one account's failure hold up no other."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection, exc

from usage_tasks.domain.errors import InvariantError, PermanentError, RetryableError
from usage_tasks.storage.engine import translate

Item = TypeVar("Item")


def bisect_failures(
    connection: Connection, items: Sequence[Item], work: Callable[[Sequence[Item]], None]
) -> list[tuple[Item, str]]:
    """Do the work on all items at once; if that fails, on each half, down to the items that fail alone.

    Each attempt is a savepoint, so that a failing half leaves nothing. Return the failing items with the reason.
    Raises RetryableError at once: the world is busy, no item is to blame.
    """
    if not items:
        return []
    try:
        with connection.begin_nested():
            work(items)
    except (exc.DBAPIError, PermanentError, InvariantError) as error:
        reason = translate(error) if isinstance(error, exc.DBAPIError) else error
        if isinstance(reason, RetryableError):
            raise reason from error
        if len(items) == 1:
            return [(items[0], str(reason))]
        middle = len(items) // 2
        return bisect_failures(connection, items[:middle], work) + bisect_failures(connection, items[middle:], work)
    return []
