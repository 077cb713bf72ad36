"""How many refused requests an address may send a minute before it is answered without a look at what it sends.

Counted in Redis, so that every receiver of an installation counts together. Only what is refused counts: what Stripe
has signed is never limited by how much there is of it, and costs no call here. Where Redis is away nobody is limited.
"""

import time
from collections import OrderedDict
from typing import Final

import structlog
from limits import RateLimitItemPerMinute
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis import RedisError

KEY_PREFIX: Final = "usage:webhook"
REMEMBERED_MAX: Final = 10_000
_PAUSE_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 0.5

log = structlog.get_logger(__name__)


class _Storage(RedisStorage):
    # The library imports every client that it could use: this one is the one that is used.
    DEPENDENCIES = {"redis": RedisStorage.DEPENDENCIES["redis"]}  # noqa: RUF012 - as the library declares it


class Limiter:
    """Counts refusals by address; 0 a minute switches it off. Safe to use from any number of threads."""

    def __init__(self, redis_url: str, *, refusals_per_minute: int) -> None:
        self._item = RateLimitItemPerMinute(refusals_per_minute) if refusals_per_minute else None
        storage = _Storage(
            redis_url,
            key_prefix=KEY_PREFIX,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            socket_timeout=_TIMEOUT_SECONDS,
        )
        self._strategy = FixedWindowRateLimiter(storage)
        self._until: OrderedDict[str, float] = OrderedDict()
        self._paused_until = 0.0

    def seconds_left(self, remote: str) -> int:
        """How long an address that sent too much is still limited; 0: it is not. Asks nobody."""
        until = self._until.get(remote)
        if until is None:
            return 0
        left = until - time.monotonic()
        if left <= 0:
            self._until.pop(remote, None)
            return 0
        return int(left) + 1

    def count_refusal(self, remote: str) -> None:
        """Count one refused request; from the one that reaches the limit on the address is limited."""
        if self._item is None or time.monotonic() < self._paused_until:
            return
        try:
            self._strategy.hit(self._item, remote)
            stats = self._strategy.get_window_stats(self._item, remote)
        except RedisError as error:
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            log.warning("webhook.limiter_away", reason=type(error).__name__)
            return
        if stats.remaining <= 0:
            self._until[remote] = time.monotonic() + max(1.0, stats.reset_time - time.time())
            while len(self._until) > REMEMBERED_MAX:
                self._until.popitem(last=False)
            log.warning("webhook.limited", remote=remote)
