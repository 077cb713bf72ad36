"""The pace of calls to Stripe: one token bucket and one circuit breaker for all workers, kept in Redis.

The bucket hands out turns: a caller gets the time to wait for its own, so that sixteen threads ask sixteen times and
not sixteen times a turn. The breaker opens after a number of failures in a row, refuses while it cools off, then lets
one probe through. Both are one hash, changed by one script in Redis's time; if it is lost, the bucket is full and the
breaker closed. If Redis's clock was set back since the last call, the kept times move back with it.
Source: docs/adr/0016, 0027.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import redis
import structlog

from usage_tasks.coordination.keyspace import key_of
from usage_tasks.domain.errors import NotAdmittedError, PermanentError, RetryableError
from usage_tasks.telemetry.metrics import BREAKER_OPENINGS

log = structlog.get_logger(__name__)

NAME: Final = "stripe_pacer"
FAILURES_MAX: Final = 10
"""So many failures in a row open the breaker."""

COOL_OFF_FIRST: Final = timedelta(seconds=10)
COOL_OFF_MAX: Final = timedelta(minutes=5)
PROBE_TIME: Final = timedelta(seconds=15)
"""A probe that has not been heard of for so long is given up: longer than a call can take."""

WAIT_MAX: Final = timedelta(seconds=10)
"""A caller whose turn would come later is refused and asks again."""

_BURST_SHARE: Final = 0.1
"""After a silence so much of a second's calls may come at once."""

_LOOK_AGAIN: Final = timedelta(milliseconds=100)
"""A caller who slept longer than this asks whether a pause began meanwhile."""

_KEY_EXPIRY: Final = timedelta(hours=1)

_PRELUDE: Final = """
    local clock = redis.call('TIME')
    local now = clock[1] * 1000000 + clock[2]
    local function held(name) return tonumber(redis.call('HGET', KEYS[1], name) or '0') end
    local function put(name, value) redis.call('HSET', KEYS[1], name, string.format('%.0f', value)) end
    local back = held('seen_at') - now
    if back > 1000000 then
        for _, name in ipairs({'next_at', 'open_until', 'paused_until'}) do
            if held(name) > 0 then put(name, held(name) - back) end
        end
    end
    if redis.call('EXISTS', KEYS[1]) == 1 then put('seen_at', now) end
"""

# interval, burst, wait_max, probe_time in microseconds -> verdict, microseconds, whether there were failures.
_ADMIT: Final = f"""
    {_PRELUDE}
    local open_until = held('open_until')
    if now < open_until then return {{'open', open_until - now, 0}} end
    local turn = math.max(held('next_at'), now - ARGV[2], held('paused_until'))
    if turn - now > tonumber(ARGV[3]) then return {{'busy', turn - now, 0}} end
    put('next_at', turn + ARGV[1])
    put('seen_at', now)
    redis.call('EXPIRE', KEYS[1], ARGV[5])
    local wait = math.max(0, turn - now)
    if open_until > 0 then
        put('open_until', turn + ARGV[4])
        return {{'probe', wait, 1}}
    end
    return {{'go', wait, held('failures')}}
"""

_PAUSED: Final = f"{_PRELUDE} return math.max(0, held('paused_until') - now)"

# The result of an earlier caller is old news while the breaker is open: only the probe decides.
_FAILED: Final = f"""
    {_PRELUDE}
    local probe = ARGV[1] == '1'
    if held('open_until') > 0 and not probe then return 0 end
    local failures = held('failures') + 1
    put('failures', failures)
    if not probe and failures < tonumber(ARGV[2]) then return 0 end
    local cool_off = math.min(math.max(held('cool_off') * 2, ARGV[3]), ARGV[4])
    put('cool_off', cool_off)
    put('open_until', now + cool_off)
    redis.call('EXPIRE', KEYS[1], ARGV[5])
    return 1
"""

_SUCCEEDED: Final = f"""
    {_PRELUDE}
    if held('open_until') > 0 and ARGV[1] ~= '1' then return 0 end
    redis.call('HDEL', KEYS[1], 'failures', 'cool_off', 'open_until')
    return 1
"""

_PAUSE: Final = f"""
    {_PRELUDE}
    put('paused_until', math.max(held('paused_until'), now + ARGV[1]))
    redis.call('EXPIRE', KEYS[1], ARGV[2])
    return 1
"""


@dataclass(frozen=True, slots=True)
class _Admission:
    """A call that may be made: whether it is the breaker's probe, and whether the calls before it failed."""

    probe: bool
    after_failures: bool


class Pacer:
    """Admits calls one by one, for every worker that shares this Redis."""

    def __init__(
        self,
        client: "redis.Redis",
        *,
        calls_per_second: int,
        wait_max: timedelta = WAIT_MAX,
        cool_off: timedelta = COOL_OFF_FIRST,
    ) -> None:
        self._key = key_of(client, NAME)
        self._interval = timedelta(seconds=1) / calls_per_second
        self._burst = max(timedelta(0), timedelta(seconds=_BURST_SHARE) - self._interval)
        self._wait_max, self._cool_off = wait_max, cool_off
        self._scripts = {text: client.register_script(text) for text in (_ADMIT, _PAUSED, _FAILED, _SUCCEEDED, _PAUSE)}

    @contextmanager
    def call(self) -> Iterator[None]:
        """Wait for this caller's turn, let it call inside the block, and learn from how the call ended.

        Raises NotAdmittedError if there is no turn within `wait_max` or the breaker is open. An error with a
        `retry_after` is an answer, not an outage: everybody pauses that long, and the breaker doesn't count it.
        """
        admission = self._admit()
        try:
            yield
        except RetryableError as error:
            if error.retry_after is None:
                self._tell_failure(admission)
            else:
                self._tell(_PAUSE, _microseconds(error.retry_after), _expiry(error.retry_after))
            raise
        except PermanentError:
            self._tell_success(admission)  # a refusal is an answer
            raise
        else:
            self._tell_success(admission)

    def _admit(self) -> _Admission:
        times = (self._interval, self._burst, self._wait_max, PROBE_TIME)
        verdict, microseconds, failures = self._ask(_ADMIT, *map(_microseconds, times), _expiry(timedelta(0)))
        wait = timedelta(microseconds=int(microseconds))
        if verdict == b"open":
            raise NotAdmittedError(f"stripe: taken to be away for {wait.total_seconds():.0f} s more", retry_after=wait)
        if verdict == b"busy":
            raise NotAdmittedError(
                f"stripe: no call is free for {wait.total_seconds():.0f} s", retry_after=wait, busy=True
            )
        time.sleep(wait.total_seconds())
        if wait > _LOOK_AGAIN:
            self._sit_out_pause()
        return _Admission(probe=verdict == b"probe", after_failures=int(failures) > 0)

    def _sit_out_pause(self) -> None:
        pause = timedelta(microseconds=int(self._ask(_PAUSED)))
        if pause > self._wait_max:
            raise NotAdmittedError(
                f"stripe: asked for a pause of {pause.total_seconds():.0f} s", retry_after=pause, busy=True
            )
        time.sleep(pause.total_seconds())

    def _tell_failure(self, admission: _Admission) -> None:
        cool_off = (_microseconds(self._cool_off), _microseconds(COOL_OFF_MAX))
        if self._tell(_FAILED, int(admission.probe), FAILURES_MAX, *cool_off, _expiry(COOL_OFF_MAX)):
            BREAKER_OPENINGS.inc()
            log.warning("stripe.breaker_opened")

    def _tell_success(self, admission: _Admission) -> None:
        if admission.probe or admission.after_failures:
            self._tell(_SUCCEEDED, int(admission.probe))

    def _ask(self, script: str, *arguments: int) -> Any:
        try:
            return self._scripts[script](keys=[self._key], args=arguments)
        except redis.RedisError as error:
            raise NotAdmittedError(f"redis: {type(error).__name__} {error}") from error

    def _tell(self, script: str, *arguments: int) -> bool:
        """Report the result of a call. A failure here undoes no call: it is logged, and the next call asks anyway."""
        try:
            return bool(self._scripts[script](keys=[self._key], args=arguments))
        except redis.RedisError as error:
            log.warning("stripe.pacer_not_told", reason=type(error).__name__)
            return False


def _microseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


def _expiry(at_least: timedelta) -> int:
    return int((_KEY_EXPIRY + at_least).total_seconds())
