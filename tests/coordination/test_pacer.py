import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from datetime import timedelta

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from usage_tasks.coordination.pacer import FAILURES_MAX, NAME, Pacer
from usage_tasks.domain.errors import NotAdmittedError, PermanentError, RetryableError
from usage_tasks.embedded.processes import free_port

COOL_OFF = timedelta(milliseconds=100)


@pytest.fixture
def make(redis_url: str) -> Callable[..., Pacer]:
    """Pacers of workers that share a Redis: each has a connection of its own."""

    def made(calls_per_second: int = 1000, **options: timedelta) -> Pacer:
        return Pacer(redis.Redis.from_url(redis_url), calls_per_second=calls_per_second, cool_off=COOL_OFF, **options)

    return made


def call(pacer: Pacer, error: Exception | None = None) -> float:
    """Return when the call was made, by the monotonic clock. The call raises `error`, if given."""
    with pytest.raises(type(error)) if error else nullcontext(), pacer.call():
        made_at = time.monotonic()
        if error is not None:
            raise error
    return made_at


def fail(pacer: Pacer, times: int) -> None:
    for _ in range(times):
        call(pacer, RetryableError("down"))


def test_workers_together_stay_within_the_calls_a_second(make: Callable[..., Pacer]) -> None:
    rate, calls = 100, 60
    workers = [make(rate) for _ in range(3)]
    call(workers[0])
    time.sleep(0.2)  # a silence earns a tenth of a second's calls at once, and no more
    started = time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        made = sorted(pool.map(lambda number: call(workers[number % 3]), range(calls)))
    burst = rate // 10
    for number, made_at in enumerate(made):
        assert made_at - started >= (number - burst) / rate


def test_whose_turn_is_too_far_off_is_refused_and_told_when(make: Callable[..., Pacer]) -> None:
    pacer = make(1, wait_max=timedelta(milliseconds=300))
    call(pacer)
    with pytest.raises(NotAdmittedError, match="no call is free") as refused:
        call(pacer)
    assert timedelta(milliseconds=500) < (refused.value.retry_after or timedelta(0)) <= timedelta(seconds=1)


@pytest.mark.holds("clocks.set-back")
@pytest.mark.parametrize("kept", ["next_at", "paused_until", "open_until"])
def test_a_clock_that_is_set_back_makes_nobody_wait_so_much_longer(
    make: Callable[..., Pacer], redis_url: str, kept: str
) -> None:
    pacer = make(10, wait_max=timedelta(seconds=2))
    call(pacer)
    call(pacer)
    with redis.Redis.from_url(redis_url) as client:
        hour, now = 3600 * 1_000_000, int(client.time()[0]) * 1_000_000
        # The state after calls an hour ahead, half a second before Redis got the right time.
        client.hset(f"usage:{NAME}", mapping={"seen_at": now + hour, kept: now + hour + 500_000})
    started = time.monotonic()
    with suppress(NotAdmittedError):
        call(pacer)
    time.sleep(0.6)
    call(pacer)
    assert time.monotonic() - started < 10


@pytest.mark.holds("stripe.retry-after")
def test_after_a_retry_after_everybody_pauses_that_long(make: Callable[..., Pacer]) -> None:
    one, other = make(), make()
    paused_at = time.monotonic()
    call(one, RetryableError("too many", retry_after=timedelta(milliseconds=300)))
    assert call(other) - paused_at >= 0.3


def test_who_already_had_a_turn_sits_out_a_pause_too(make: Callable[..., Pacer]) -> None:
    one, other = make(5), make(5)
    with ThreadPoolExecutor(1) as pool:
        with suppress(RetryableError), one.call():
            started = time.monotonic()
            waiting = pool.submit(call, other)  # its turn comes in 0.2 s
            time.sleep(0.05)
            raise RetryableError("too many", retry_after=timedelta(milliseconds=600))
        assert waiting.result() - started >= 0.6


@pytest.mark.holds("stripe.breaker")
def test_failures_in_a_row_open_the_breaker_for_every_worker(make: Callable[..., Pacer]) -> None:
    one, other = make(), make()
    fail(one, FAILURES_MAX - 1)
    call(other)  # a success in between: they are not in a row
    fail(one, FAILURES_MAX - 1)
    fail(other, 1)
    for worker in (one, other):
        with pytest.raises(NotAdmittedError, match="taken to be away"):
            call(worker)


@pytest.mark.holds("stripe.breaker")
def test_an_open_breaker_lets_one_probe_through_and_closes_when_it_succeeds(make: Callable[..., Pacer]) -> None:
    one, other = make(), make()
    fail(one, FAILURES_MAX)
    time.sleep(COOL_OFF.total_seconds())
    with one.call(), pytest.raises(NotAdmittedError):
        call(other)
    call(other)
    fail(other, FAILURES_MAX - 1)  # counted from nothing again
    call(one)


@pytest.mark.holds("stripe.breaker")
def test_a_probe_that_fails_doubles_the_time_to_cool_off(make: Callable[..., Pacer]) -> None:
    pacer = make()
    fail(pacer, FAILURES_MAX)
    time.sleep(COOL_OFF.total_seconds())
    call(pacer, RetryableError("still down"))
    with pytest.raises(NotAdmittedError) as refused:
        call(pacer)
    assert COOL_OFF < (refused.value.retry_after or timedelta(0)) <= 2 * COOL_OFF


@pytest.mark.holds("stripe.breaker")
def test_ten_failures_open_the_breaker_for_ten_seconds_and_failed_probes_for_up_to_five_minutes(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    pacer = Pacer(client, calls_per_second=1000)
    fail(pacer, 9)
    call(pacer, RetryableError("the tenth"))
    waits = []
    for _ in range(7):
        with pytest.raises(NotAdmittedError, match="taken to be away") as refused:
            call(pacer)
        waits.append(round((refused.value.retry_after or timedelta(0)).total_seconds()))
        client.hset(f"usage:{NAME}", "open_until", 1)  # as if that time had passed
        call(pacer, RetryableError("still down"))
    assert waits == [10, 20, 40, 80, 160, 300, 300]


def test_calls_that_were_in_flight_when_the_breaker_opened_prolong_nothing(make: Callable[..., Pacer]) -> None:
    one, other = make(), make()
    with suppress(RetryableError), other.call():
        fail(one, FAILURES_MAX)
        opened_at = time.monotonic()
        raise RetryableError("down, too")
    time.sleep(max(0.0, opened_at + COOL_OFF.total_seconds() - time.monotonic()))
    call(other)


@pytest.mark.parametrize("answer", [PermanentError("no"), RetryableError("slow down", retry_after=timedelta(0))])
def test_an_answer_is_no_outage(make: Callable[..., Pacer], answer: Exception) -> None:
    pacer = make()
    for _ in range(FAILURES_MAX + 1):
        call(pacer, answer)
    call(pacer)


def test_a_flushed_redis_means_a_closed_breaker(make: Callable[..., Pacer], redis_url: str) -> None:
    pacer = make()
    fail(pacer, FAILURES_MAX)
    client = redis.Redis.from_url(redis_url)
    assert 0 < client.ttl(f"usage:{NAME}") <= 2 * 3600
    client.flushdb()
    client.script_flush()
    call(pacer)


def test_without_redis_no_call_is_made() -> None:
    away = redis.Redis(host="127.0.0.1", port=free_port(), socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))
    with pytest.raises(NotAdmittedError, match="redis: ConnectionError"):
        call(Pacer(away, calls_per_second=10))
