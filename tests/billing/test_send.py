from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.billing.bench import Bench, CrashError, Wrapped, at_once, crash, crashing
from tests.billing.conftest import BEGIN
from tests.billing.world import KEY
from tests.factories import HOUR, team
from tests.stripe_gateway.canned import answering, error
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.domain.payments import MeterEvent
from usage_tasks.runtime import Runtime
from usage_tasks.services.sync import CLAIM_LIMIT, LEASE, Sent, backoff
from usage_tasks.storage import meter_reports
from usage_tasks.stripe_gateway.live import CALL_SECONDS_MAX, LiveGateway
from usage_tasks.tasks import billing

ACCOUNT = team("one")
NOON = BEGIN + 2 * HOUR


def with_reports(bench: Bench, *accounts: AttributionId, credits_used: int = 5) -> dict[AttributionId, str]:
    """Paying accounts with a report each, in this order; answer their customers."""
    customers = {account: bench.pay(account) for account in accounts}
    bench.world.advance(NOON)
    for account in accounts:
        bench.use(account, credits_used, until=NOON)
    bench.sync(NOON)
    return customers


def claim(bench: Bench, limit: int = 10) -> list[meter_reports.ClaimedReport]:
    with bench.transaction() as connection:
        return list(meter_reports.claim_reports(connection, limit=limit, lease=LEASE))


def lease_ends(bench: Bench) -> None:
    bench.execute("UPDATE meter_report SET claimed_until = clock_timestamp() - interval '1 second'")


class Refusing:
    """The real gateway, but for one customer's meter events."""

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


def test_a_lease_outlasts_the_calls_it_is_for() -> None:
    assert timedelta(seconds=CLAIM_LIMIT * CALL_SECONDS_MAX) < LEASE


def test_workers_at_once_claim_each_report_once(bench: Bench) -> None:
    with_reports(bench, *[team(number) for number in range(6)])
    claimed = [report.identifier for part in at_once(*[lambda: claim(bench, 2)] * 4) for report in part]
    assert len(claimed) == len(set(claimed))
    assert len(set(claimed) | {report.identifier for report in claim(bench)}) == 6


def test_an_account_has_one_report_in_flight_the_oldest(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    bench.use(ACCOUNT, 5, until=NOON + HOUR)
    bench.sync(NOON + HOUR)
    assert [report.as_of for report in claim(bench)] == [NOON]
    assert claim(bench) == []


def test_the_reports_of_an_account_are_sent_oldest_first(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    bench.use(ACCOUNT, 5, until=NOON + HOUR)
    bench.world.advance(NOON + HOUR)
    bench.sync(NOON + HOUR)
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


def test_a_report_that_stripe_is_too_busy_for_is_due_later_and_the_others_go_on(bench: Bench) -> None:
    other = team("two")
    customers = with_reports(bench, ACCOUNT, other)
    busy = Refusing(bench, customers[ACCOUNT], RetryableError("busy"))
    assert bench.send(busy) == Sent(accepted=1, retried=1, parked=0)
    assert [state for _, _, state in bench.reports(other)] == ["accepted"]
    row = bench.rows(
        "SELECT error, claimed_until, next_attempt_at - clock_timestamp() AS wait FROM meter_report "
        "WHERE state = 'pending'"
    )[0]
    assert (row.error, row.claimed_until) == ("busy", None)
    assert timedelta(seconds=2) < row.wait <= backoff(1)
    assert bench.send() == Sent(accepted=0, retried=0, parked=0)
    bench.execute("UPDATE meter_report SET next_attempt_at = clock_timestamp()")
    assert bench.send() == Sent(accepted=1, retried=0, parked=0)


def test_the_pause_doubles_up_to_ten_minutes() -> None:
    assert [backoff(attempts).total_seconds() for attempts in (1, 2, 3, 7, 8, 1000)] == [5, 10, 20, 320, 600, 600]


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


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_crash_in_a_transaction_loses_and_doubles_nothing(bench: Bench, nth: int, committed: bool) -> None:  # noqa: FBT001
    with_reports(bench, ACCOUNT)
    with pytest.raises(CrashError):
        bench.send(transaction=crashing(bench.transaction, nth, committed=committed))
    lease_ends(bench)
    bench.send()
    assert bench.reports() == [(NOON, 5, "accepted")]
    assert len(bench.world.meter_events()) == 1


def test_a_worker_that_is_late_does_not_undo_what_another_settled(bench: Bench) -> None:
    with_reports(bench, ACCOUNT)
    late = claim(bench)[0]
    lease_ends(bench)
    assert bench.send().accepted == 1
    with bench.transaction() as connection:
        meter_reports.mark_parked(connection, late, error="late")
        meter_reports.mark_retry(connection, late, after=timedelta(0), error="late")
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
    assert billing.send_meter_events() == {"accepted": 1, "retried": 0, "parked": 0}


def test_the_task_ends_in_error_with_counts_if_a_report_was_parked(bench: Bench, rt: Runtime, broker: str) -> None:
    customers = with_reports(bench, ACCOUNT, team("two"))
    bench.world.v1.customers.delete(customers[ACCOUNT])
    with pytest.raises(PermanentError, match="1 parked, 0 put off, 1 accepted"):
        billing.send_meter_events()
    assert [state for _, _, state in bench.reports(ACCOUNT)] == ["parked"]


def test_reports_wait_while_stripe_is_down_and_go_when_it_is_back(bench: Bench) -> None:
    accounts = [team(number) for number in range(6)]
    with_reports(bench, *accounts)
    with answering((500, error("down", kind="api_error"))) as down:
        gateway = LiveGateway(secret_key=KEY, meter_event_name="usage_credits", api_base=down.url)
        assert bench.send(gateway) == Sent(accepted=0, retried=3, parked=0)  # enough to see that it is down
    bench.execute("UPDATE meter_report SET next_attempt_at = clock_timestamp(), claimed_until = NULL")
    assert bench.send() == Sent(accepted=6, retried=0, parked=0)
