import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import Connection

from tests.factories import HOUR, SYSTEM, team
from tests.stripe_gateway.canned import answering, error
from tests.stripe_world.bench import Bench, CrashError, Wrapped, at_once, crash
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.population import charge_all
from tests.stripe_world.world import KEY
from usage_tasks.coordination.pacer import FAILURES_MAX, WAIT_MAX, Pacer
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.domain.payments import MeterEvent
from usage_tasks.domain.retries import backoff
from usage_tasks.runtime import Runtime
from usage_tasks.services.metering.send_reports import CLAIM_LIMIT, LEASE, PARKED_IN_A_ROW_MAX, Sent, pause_after
from usage_tasks.storage.metering import queue
from usage_tasks.storage.metering.queue import ClaimSettlement, ReportOutcome
from usage_tasks.stripe_gateway.live import CALL_SECONDS_MAX, LiveGateway
from usage_tasks.tasks.billing import sync

ACCOUNT = team("one")
NOON = BEGIN + 2 * HOUR


def with_reports(bench: Bench, *accounts: AttributionId, credits_used: int = 5) -> dict[AttributionId, str]:
    """Paying accounts with a report each, in this order; return their customers."""
    customers = {account: bench.pay(account) for account in accounts}
    bench.world.advance(NOON)
    for account in accounts:
        bench.use(account, credits_used, until=NOON)
    bench.sync(NOON)
    return customers


def claim(bench: Bench, limit: int = 10) -> list[queue.ClaimedReport]:
    with bench.transaction() as connection:
        return list(queue.claim_reports(connection, limit=limit, lease=LEASE))


def lease_ends(bench: Bench) -> None:
    bench.execute("UPDATE meter_report SET claimed_until = clock_timestamp() - interval '1 second'")


class Refusing:
    """The real gateway, except that one customer's meter events fail."""

    def __init__(self, bench: Bench, customer_id: str, refusal: Exception) -> None:
        self._stripe, self._customer_id, self._refusal = bench.stripe, customer_id, refusal

    def send_meter_event(self, event: MeterEvent) -> None:
        if event.customer_id == self._customer_id:
            raise self._refusal
        self._stripe.send_meter_event(event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stripe, name)


def test_a_report_reaches_the_meter_with_its_time_and_is_settled(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    assert bench.send() == Sent(accepted=1, retried=0, parked=0)
    assert bench.world.meter_events() == [(int(NOON.timestamp()), 5)]
    assert bench.reports() == [(NOON, 5, "accepted")]
    assert bench.send() == Sent(accepted=0, retried=0, parked=0)


def test_a_claimed_report_is_not_another_workers_until_its_lease_ends(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    assert [report.attempts for report in claim(bench)] == [1]
    assert claim(bench) == []
    lease_ends(bench)
    assert [report.attempts for report in claim(bench)] == [2]


def test_a_lease_outlasts_the_calls_it_is_for_and_the_waits_for_their_turns() -> None:
    assert CLAIM_LIMIT * (timedelta(seconds=CALL_SECONDS_MAX) + WAIT_MAX) < LEASE


def test_workers_at_once_claim_each_report_once(bench: Bench) -> None:
    with_reports(bench, *[team(number) for number in range(6)])
    claimed = [report.identifier for part in at_once(*[lambda: claim(bench, 2)] * 4) for report in part]
    assert len(claimed) == len(set(claimed))
    assert len(set(claimed) | {report.identifier for report in claim(bench)}) == 6


def test_an_account_has_one_report_in_flight(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    held = claim(bench)
    bench.use(ACCOUNT, 5, until=NOON + HOUR)
    bench.sync(NOON + HOUR)
    assert [report.as_of for report in held] == [NOON]
    assert claim(bench) == []


def test_an_older_report_that_comes_in_while_one_is_in_flight_waits_for_it(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    (held,) = claim(bench)
    bench.execute(
        "INSERT INTO meter_report (attribution_id, as_of, identifier, quantity) "
        "VALUES (:account, :as_of, 'closing', 3)",
        account=ACCOUNT,
        as_of=NOON - HOUR,
    )
    assert claim(bench) == []
    with bench.transaction() as connection:
        queue.settle_reports(connection, [ClaimSettlement(report=held, outcome=ReportOutcome.UNSENT)], actor=SYSTEM)
    assert [report.identifier for report in claim(bench)] == ["closing"]


def test_of_a_period_that_was_not_sent_only_the_last_report_is(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    bench.use(ACCOUNT, 5, until=NOON + HOUR)
    bench.world.advance(NOON + HOUR)
    bench.sync(NOON + HOUR)
    assert bench.reports() == [(NOON, 5, "dropped"), (NOON + HOUR, 10, "pending")]
    assert bench.send().accepted == 1
    assert [value for _, value in bench.world.meter_events()] == [10]


@pytest.mark.holds("stripe.last-report-only")
def test_six_hours_of_changes_without_stripe_are_one_call(bench: Bench) -> None:
    customers = with_reports(bench, ACCOUNT, team("two"))
    end = NOON
    for minutes in range(10, 361, 10):
        end = NOON + timedelta(minutes=minutes)
        with bench.transaction() as connection:
            charge_all(connection, 100, at=end)
        assert bench.sync(end) == 2
    bench.world.advance(end)
    assert bench.send() == Sent(accepted=2, retried=0, parked=0)
    for customer in customers.values():
        assert bench.world.meter_events(customer) == [(int(end.timestamp()), 5 + 36)]


def test_the_reports_of_an_account_are_sent_oldest_first(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    held = claim(bench)
    bench.use(ACCOUNT, 5, until=NOON + HOUR)
    bench.world.advance(NOON + HOUR)
    bench.sync(NOON + HOUR)
    lease_ends(bench)
    assert len(held) == 1
    assert bench.send().accepted == 2
    assert [value for _, value in bench.world.meter_events()] == [5, 10]


def test_reports_are_claimed_oldest_first(bench: Bench) -> None:
    accounts = [team(number) for number in range(3)]
    with_reports(bench, *accounts)
    for age, account in enumerate(accounts):
        bench.execute(
            "UPDATE meter_report SET next_attempt_at = clock_timestamp() - :age WHERE attribution_id = :account",
            age=timedelta(minutes=age),
            account=account,
        )
    assert [claim(bench, 1)[0].attribution_id for _ in accounts] == accounts[::-1]


@pytest.mark.holds("stripe.failed-report")
def test_a_report_that_stripe_is_too_busy_for_is_due_later_and_the_others_go_on(bench: Bench) -> None:
    other = team("two")
    customers = with_reports(bench, ACCOUNT, other)
    busy = Refusing(bench, customers[ACCOUNT], RetryableError("busy"))
    assert bench.send(busy) == Sent(accepted=1, retried=1, parked=0, waiting=1)
    assert [state for _, _, state in bench.reports(other)] == ["accepted"]
    row = bench.rows(
        "SELECT error, claimed_until, next_attempt_at - clock_timestamp() AS wait FROM meter_report "
        "WHERE state = 'pending'"
    )[0]
    assert (row.error, row.claimed_until) == ("busy", None)
    assert timedelta(0) < row.wait <= pause_after(1)
    assert bench.send() == Sent(accepted=0, retried=0, parked=0)
    bench.execute("UPDATE meter_report SET next_attempt_at = clock_timestamp()")
    assert bench.send() == Sent(accepted=1, retried=0, parked=0)


SUPERSEDE = """
    UPDATE meter_report SET state = 'dropped', error = 'superseded' WHERE state = 'pending' AND claimed_until IS NULL
"""
CLAIM = "UPDATE meter_report SET claimed_until = clock_timestamp() + interval '90 seconds' WHERE state = 'pending'"
PARK = "UPDATE stripe_customer SET parked_at = now(), parked_reason = 'two subscriptions'"


def by_another(bench: Bench) -> None:
    bench.execute("UPDATE meter_report SET next_attempt_at = now() - interval '1 second'")
    assert bench.send().accepted == 1


def by_sync(bench: Bench) -> None:
    bench.use(ACCOUNT, 5, until=NOON + HOUR)
    assert bench.sync(NOON + HOUR) == 1


@pytest.mark.parametrize(
    ("meanwhile", "waiting"),
    [
        (lambda bench: bench.execute(SUPERSEDE), 0),
        (by_another, 0),
        (lambda bench: bench.execute(PARK), 0),
        (lambda bench: bench.execute(CLAIM), 1),
        (by_sync, 1),  # the newer one, which is refused as the first was
    ],
    ids=["superseded", "sent", "parked", "claimed", "synced"],
)
def test_what_others_do_to_a_report_that_is_put_off_is_noticed(
    bench: Bench, meanwhile: Callable[[Bench], None], waiting: int
) -> None:
    customers = with_reports(bench, ACCOUNT)
    opened = 0

    @contextmanager
    def transaction() -> Iterator[Connection]:
        nonlocal opened
        opened += 1
        if opened == 3:  # the claim, then its end, which postpones the report
            meanwhile(bench)
        with bench.transaction() as connection:
            yield connection

    busy = Refusing(bench, customers[ACCOUNT], RetryableError("busy"))
    sent = bench.send(busy, transaction=transaction, patience=timedelta(seconds=20), longest=timedelta(seconds=2))
    assert sent.waiting == waiting
    assert opened < 20


def test_the_pause_doubles_up_to_ten_minutes() -> None:
    assert [backoff(attempts).total_seconds() for attempts in (1, 2, 3, 7, 8, 1000)] == [5, 10, 20, 320, 600, 600]


@pytest.mark.holds("stripe.failed-report", "lesson.starving-customer")
def test_a_report_that_can_never_succeed_is_parked_with_the_reason_and_the_others_go_on(bench: Bench) -> None:
    other = team("two")
    customers = with_reports(bench, ACCOUNT, other)
    assert bench.send(Refusing(bench, customers[ACCOUNT], PermanentError("nobody"))) == Sent(
        accepted=1, retried=0, parked=1
    )
    assert bench.rows("SELECT attribution_id, error FROM meter_report WHERE state = 'parked'")[0] == (ACCOUNT, "nobody")
    assert [state for _, _, state in bench.reports(other)] == ["accepted"]
    bench.use(ACCOUNT, 5, until=NOON + HOUR)
    assert bench.sync(NOON + HOUR) == 0


@pytest.mark.holds("lesson.retried-post")
def test_a_crash_after_the_call_and_before_the_settling_has_one_effect(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    with pytest.raises(CrashError):
        bench.send(Wrapped(bench.stripe, after=crash))
    assert bench.send() == Sent(accepted=0, retried=0, parked=0)
    lease_ends(bench)
    assert bench.send() == Sent(accepted=1, retried=0, parked=0)
    assert bench.world.meter_events() == [(int(NOON.timestamp()), 5)]


def test_a_crash_after_the_call_heals_also_when_stripe_has_forgotten_the_key(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    with pytest.raises(CrashError):
        bench.send(Wrapped(bench.stripe, after=crash))
    bench.world.advance(NOON + 25 * HOUR)
    lease_ends(bench)
    assert bench.send() == Sent(accepted=1, retried=0, parked=0)
    # Stripe has forgotten the identifier, too, and counts a second event: the same value at the same instant, so `last`
    # bills the same.
    first, second = bench.world.meter_events()
    assert first == second


def test_a_worker_that_is_late_does_not_undo_what_another_settled(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    late = claim(bench)[0]
    lease_ends(bench)
    assert bench.send().accepted == 1
    with bench.transaction() as connection:
        for outcome in (ReportOutcome.PARKED, ReportOutcome.RETRY, ReportOutcome.UNSENT):
            queue.settle_reports(
                connection, [ClaimSettlement(report=late, outcome=outcome, error="late")], actor=SYSTEM
            )
    assert bench.reports() == [(NOON, 5, "accepted")]


def test_a_worker_that_is_late_does_not_end_the_claim_of_another(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    late = claim(bench)[0]
    lease_ends(bench)
    (held,) = claim(bench)
    with bench.transaction() as connection:
        for outcome in (ReportOutcome.PARKED, ReportOutcome.RETRY, ReportOutcome.UNSENT):
            queue.settle_reports(
                connection, [ClaimSettlement(report=late, outcome=outcome, error="late")], actor=SYSTEM
            )
    assert bench.rows("SELECT state, claimed_until FROM meter_report") == [("pending", held.claimed_until)]
    # Stripe's acceptance is a fact, whichever worker reports it.
    with bench.transaction() as connection:
        queue.settle_reports(connection, [ClaimSettlement(report=late, outcome=ReportOutcome.ACCEPTED)], actor=SYSTEM)
    assert bench.reports() == [(NOON, 5, "accepted")]


def test_no_transaction_is_open_during_a_call(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    open_now = 0

    @contextmanager
    def counted() -> Iterator[Connection]:
        nonlocal open_now
        with bench.transaction() as connection:
            open_now += 1
            yield connection
        open_now -= 1

    def check() -> None:
        assert open_now == 0

    assert bench.send(Wrapped(bench.stripe, before=check), transaction=counted).accepted == 1


def test_the_task_sends_what_is_due_and_says_how_much(bench: Bench, rt: Runtime, broker: str) -> None:
    with_reports(bench, ACCOUNT)
    sent = {"accepted": 1, "retried": 0, "parked": 0, "waiting": 0, "halted": None, "more": False}
    sent |= {"early": 0, "dropped": 0, "behind_seconds": None}
    assert sync.send_meter_events() == sent
    assert sync.send_meter_events() == sent | {"accepted": 0}


@pytest.mark.holds("stripe.failed-report", "lesson.starving-customer", "lesson.green-metrics")
def test_the_task_ends_in_error_with_counts_if_a_report_was_parked(bench: Bench, rt: Runtime, broker: str) -> None:
    customers = with_reports(bench, ACCOUNT, team("two"))
    bench.world.v1.customers.delete(customers[ACCOUNT])
    with pytest.raises(PermanentError, match="1 parked, 0 put off, 1 accepted"):
        sync.send_meter_events()
    assert [state for _, _, state in bench.reports(ACCOUNT)] == ["parked"]


def test_reports_wait_while_stripe_is_down_and_go_when_it_is_back(bench: Bench, redis_url: str) -> None:
    accounts = bench.crowd(FAILURES_MAX + 6, at=NOON)
    pacer = Pacer(redis.Redis.from_url(redis_url), calls_per_second=1000, cool_off=timedelta(milliseconds=50))
    with answering((500, error("down", kind="api_error"))) as down:
        gateway = LiveGateway(secret_key=KEY, meter_event_name="usage_credits", api_base=down.url, admission=pacer.call)
        sent = bench.send(gateway)
    assert (sent.accepted, sent.retried, sent.parked, sent.waiting) == (0, FAILURES_MAX, 0, FAILURES_MAX)
    assert sent.halted is not None
    assert "taken to be away" in sent.halted
    untried = bench.rows("SELECT 1 FROM meter_report WHERE attempts = 0 AND claimed_until IS NULL")
    assert len(untried) == 6
    bench.execute("UPDATE meter_report SET next_attempt_at = clock_timestamp()")
    time.sleep(0.05)  # the breaker cools off
    up = LiveGateway(secret_key=KEY, meter_event_name="usage_credits", api_base=bench.world.url, admission=pacer.call)
    assert bench.send(up) == Sent(accepted=len(accounts), retried=0, parked=0)


@pytest.mark.holds("stripe.refused-key")
def test_a_key_that_stripe_does_not_know_parks_nobody(bench: Bench) -> None:
    bench.crowd(6, at=NOON)
    with answering((401, error("no such key", kind="invalid_request_error"))) as refusing:
        gateway = LiveGateway(secret_key=KEY, meter_event_name="usage_credits", api_base=refusing.url)
        sent = bench.send(gateway)
    assert (sent.accepted, sent.retried, sent.parked) == (0, 0, 0)
    assert "AuthenticationError" in (sent.halted or "")
    assert bench.send() == Sent(accepted=6, retried=0, parked=0)


@pytest.mark.holds("stripe.refused-key", "lesson.runaway")
def test_a_run_that_parks_account_after_account_stops(bench: Bench) -> None:
    bench.crowd(PARKED_IN_A_ROW_MAX + 8, at=NOON)
    with answering((400, error("no meter"))) as refusing:
        gateway = LiveGateway(secret_key=KEY, meter_event_name="usage_credits", api_base=refusing.url)
        sent = bench.send(gateway)
    assert sent.parked == PARKED_IN_A_ROW_MAX == 20
    assert "one after the other" in (sent.halted or "")


def test_what_was_put_off_for_a_moment_is_waited_for(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    refusals = iter([RetryableError("busy", retry_after=timedelta(seconds=0.2))])

    def refuse_once() -> None:
        for refusal in refusals:
            raise refusal

    started = time.monotonic()
    busy = Wrapped(bench.stripe, before=refuse_once)
    sent = bench.send(busy, patience=timedelta(seconds=1), pause_after=lambda _: timedelta(0))
    assert sent == Sent(accepted=1, retried=1, parked=0)
    assert time.monotonic() - started > 0.2


@pytest.mark.parametrize("bound", [{"limit": CLAIM_LIMIT}, {"longest": timedelta(0)}])
def test_a_run_that_its_limit_or_its_time_cuts_short_says_that_there_is_more(bench: Bench, bound: Any) -> None:
    bench.crowd(2 * CLAIM_LIMIT, at=NOON)
    cut = bench.send(**bound)
    assert cut.more
    assert cut.accepted == (CLAIM_LIMIT if "limit" in bound else 0)
    assert bench.send() == Sent(accepted=2 * CLAIM_LIMIT - cut.accepted, retried=0, parked=0)


def test_a_low_rate_slows_threads_down_and_stops_nobody(bench: Bench, redis_url: str) -> None:
    bench.crowd(40, at=NOON)
    pacer = Pacer(redis.Redis.from_url(redis_url), calls_per_second=50, wait_max=timedelta(milliseconds=60))
    live = LiveGateway(secret_key=KEY, meter_event_name="usage_credits", api_base=bench.world.url, admission=pacer.call)
    started = time.monotonic()
    assert bench.send(live, threads=8) == Sent(accepted=40, retried=0, parked=0)
    assert time.monotonic() - started >= (40 - 5) / 50
    assert bench.rows("SELECT max(attempts) FROM meter_report")[0] == (1,)


@pytest.mark.holds("stripe.retry-after")
def test_a_long_pause_ends_the_run_and_parks_nobody(bench: Bench, redis_url: str) -> None:
    bench.crowd(6, at=NOON)
    pacer = Pacer(redis.Redis.from_url(redis_url), calls_per_second=1000)
    live = LiveGateway(secret_key=KEY, meter_event_name="usage_credits", api_base=bench.world.url, admission=pacer.call)
    bench.world.switch("faults", kind="rate_limited", count=1, seconds=60)
    sent = bench.send(live)
    assert (sent.accepted, sent.retried, sent.parked) == (0, 1, 0)
    assert "no call is free for" in (sent.halted or "")


def test_threads_send_each_report_once(bench: Bench) -> None:
    bench.crowd(40, at=NOON)
    assert bench.send(threads=8) == Sent(accepted=40, retried=0, parked=0)
    assert len(bench.world.meter_events()) == 40


@pytest.mark.holds("stripe.failed-report", "lesson.starving-customer")
def test_who_is_parked_is_announced_and_noted_once(bench: Bench) -> None:
    customers = with_reports(bench, ACCOUNT)
    bench.send(Refusing(bench, customers[ACCOUNT], PermanentError("nobody")))
    (told,) = bench.messages("server.account_parked")
    assert (told.payload["attribution_id"], told.payload["reason"], told.payload["quantity"]) == (ACCOUNT, "nobody", 5)
    (noted,) = bench.rows("SELECT actor, details FROM audit WHERE action = 'meter_report.parked'")
    assert (noted.actor, noted.details["reason"]) == ("service:billing.send_meter_events", "nobody")
