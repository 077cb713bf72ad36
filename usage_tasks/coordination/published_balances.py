"""Balances in Redis, for other services to read in one HGETALL. Nobody here ever reads them back.

`usage:balance:<attribution_id>` is a hash of texts; `usage:` is the prefix of the installation (`redis.prefix`). A
second key, the marker, holds the time since when everything is there: if it is missing (first run, flushed Redis, half
an expiry gone by) the next tick writes every account again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import redis
from redis.typing import EncodableT

from usage_tasks.coordination.keyspace import key_of
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.errors import RetryableError
from usage_tasks.domain.limits import LimitState

BALANCE: Final = "balance:"
"""The name of an account's key, before its attribution and after the prefix of the installation."""
MARKER: Final = "balance_marker"
PIPELINE_MAX: Final = 500
"""How many accounts one transaction of Redis holds: a few milliseconds of its one thread."""

_EXPIRY_MIN: Final = timedelta(hours=1)
_PERIODS_PER_EXPIRY: Final = 4
_BEING_WRITTEN: Final = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceSnapshot:
    """The public facts of an account as of an instant: limit in credits, burn rate in cents per hour."""

    attribution_id: AttributionId
    balance_cents: CreditCents
    spending_limit: int
    remaining_cents: int
    hard_limit_cents: int
    limit_state: LimitState
    burn_cents_per_hour: Decimal
    as_of: datetime

    def encode(self) -> dict[EncodableT, EncodableT]:
        """The fields of the hash."""
        return {
            "balance_cents": self.balance_cents,
            "spending_limit": self.spending_limit,
            "remaining_cents": self.remaining_cents,
            "hard_limit_cents": self.hard_limit_cents,
            "limit_state": self.limit_state.value,
            "burn_cents_per_hour": f"{self.burn_cents_per_hour:f}",
            "as_of": self.as_of.isoformat(),
        }


class BalanceSnapshots:
    """Writes snapshots that expire, so that a dead system's go away.

    The marker lives half as long, and the expiry is at least four ticks: a full rewrite comes before any expires.
    Every method raises RetryableError if Redis is away.
    """

    def __init__(self, client: "redis.Redis", *, period: timedelta | None) -> None:
        self._client = client
        self._marker = key_of(client, MARKER)
        self.expiry = max(_EXPIRY_MIN, _PERIODS_PER_EXPIRY * (period or timedelta(0)))

    def find_marker(self) -> datetime | None:
        """Return since when changes must be written, or None if every account must be."""
        try:
            held = self._client.get(self._marker)
        except redis.RedisError as error:
            raise _away(error) from error
        return datetime.fromisoformat(held.decode()) if isinstance(held, bytes) and held != _BEING_WRITTEN else None

    def begin_rewrite(self) -> None:
        """Mark that everything is being written, so that a flush in the middle of it is noticed at its end."""
        try:
            self._client.set(self._marker, _BEING_WRITTEN, ex=self.expiry // 2)
        except redis.RedisError as error:
            raise _away(error) from error

    def move_marker(self, since: datetime) -> bool:
        """Note that every change up to `since` is written. Return True if it could be noted.

        It cannot if the marker went missing meanwhile, and the written balances with it: the next tick writes all.
        """
        try:
            return bool(self._client.set(self._marker, since.isoformat(), xx=True, keepttl=True))
        except redis.RedisError as error:
            raise _away(error) from error

    def write(self, snapshots: Sequence[BalanceSnapshot]) -> None:
        """Write snapshots in bounded transactions of Redis, so that none is left without its expiry."""
        try:
            for start in range(0, len(snapshots), PIPELINE_MAX):
                with self._client.pipeline(transaction=True) as pipeline:
                    for each in snapshots[start : start + PIPELINE_MAX]:
                        key = key_of(self._client, BALANCE + each.attribution_id)
                        pipeline.hset(key, mapping=each.encode())
                        pipeline.expire(key, self.expiry)
                    pipeline.execute()
        except redis.RedisError as error:
            raise _away(error) from error


def _away(error: redis.RedisError) -> RetryableError:
    return RetryableError(f"redis: {type(error).__name__} {error}")
