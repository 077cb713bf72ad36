"""How a client of ours goes on after an error answer of Redis: on another connection.

After a failover behind a name, a virtual address or a proxy, an old connection may still lead to the server that was
the primary. It answers READONLY, or refuses writes, for as long as the connection lives.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from redis.backoff import AbstractBackoff, ExponentialWithJitterBackoff
from redis.exceptions import NoScriptError, ResponseError
from redis.retry import Retry

Result = TypeVar("Result")

_RETRIES: Final = 10
_PAUSE_FIRST_SECONDS: Final = 0.01
_PAUSE_SECONDS_MAX: Final = 1
"""As redis-py has them where nothing is said."""


class DiscardingRetry(Retry):
    """Retries as redis-py does; an error answer is raised at once, and its connection closed.

    NOSCRIPT is left out: it is how redis-py learns that it must load a script.
    """

    def __init__(self, backoff: AbstractBackoff, retries: int) -> None:
        super().__init__(backoff, retries)

    def call_with_retry(
        self,
        do: Callable[[], Result],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,  # noqa: FBT001, FBT002 - as redis-py calls it
    ) -> Result:
        """Call `do`. `fail` closes the connection: redis-py passes it for the errors that it retries."""

        def do_or_discard() -> Result:
            try:
                return do()
            except NoScriptError:
                raise
            except ResponseError as error:
                if with_failure_count:
                    fail(error, 1)
                else:
                    fail(error)
                raise

        return super().call_with_retry(do_or_discard, fail, is_retryable, with_failure_count)


def make_discarding_retry() -> DiscardingRetry:
    """Return a retry that is as patient with lost connections as redis-py's own."""
    return DiscardingRetry(ExponentialWithJitterBackoff(base=_PAUSE_FIRST_SECONDS, cap=_PAUSE_SECONDS_MAX), _RETRIES)
