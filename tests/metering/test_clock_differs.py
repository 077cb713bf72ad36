"""Our clock and Stripe's differ: reports wait or are dropped, no account is parked, nothing is lost."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.factories import DAY, HOUR, team
from tests.stripe_gateway.canned import answering, error
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.population import charge_all
from tests.stripe_world.world import GRACE, KEY
from usage_tasks.coordination.clock import TestClock
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import PermanentError, TooEarlyError, TooOldError
from usage_tasks.domain.payments import MeterEvent, StripeCustomerId
from usage_tasks.runtime import Runtime
from usage_tasks.services.metering.decide_reports import report_closing_quantity
from usage_tasks.services.metering.send_reports import Sent
from usage_tasks.stripe_gateway.live import LiveGateway
from usage_tasks.tasks.billing import sync

NOON = BEGIN + 2 * HOUR
MINUTE = timedelta(minutes=1)
AHEAD = 20 * MINUTE
OLD_REASON = (
    "stripe meter_events.create: InvalidRequestError 400  request req_1: "
    "The timestamp must be at most 5 minutes in the future."
)


def ahead(bench: Bench, accounts: int, by: timedelta = AHEAD) -> dict[str, str]:
    """Give each account a report with a time ahead of Stripe's clock, which stands at NOON."""
    customers = bench.crowd(accounts, at=NOON)
    bench.execute("DELETE FROM meter_report")
    assert bench.sync(NOON + by) == accounts
    return {str(account): customer for account, customer in customers.items()}


def waits(bench: Bench) -> Sequence[timedelta]:
    rows = bench.rows(
        "SELECT next_attempt_at - clock_timestamp() AS wait FROM meter_report WHERE state = 'pending' ORDER BY as_of"
    )
    return [row.wait for row in rows]


def due_now(bench: Bench) -> None:
    bench.execute("UPDATE meter_report SET next_attempt_at = clock_timestamp() - interval '1 second'")


def states(bench: Bench) -> set[str]:
    return {state for _, _, state in bench.reports()}


@pytest.mark.holds("stripe.clock-differs")
def test_reports_that_are_ahead_of_stripes_clock_wait_for_it_and_park_nobody(bench: Bench) -> None:
    customers = ahead(bench, 25)
    sent = bench.send()
    assert (sent.accepted, sent.early, sent.parked, sent.waiting, sent.halted) == (0, 25, 0, 0, None)
    assert sent.behind_seconds == pytest.approx(AHEAD.total_seconds(), abs=60)
    assert states(bench) == {"pending"}
    assert all(14 * MINUTE < wait < 16 * MINUTE for wait in waits(bench))
    assert bench.messages("server.account_parked") == []
    bench.world.advance(NOON + 15 * MINUTE)
    due_now(bench)
    assert bench.send() == Sent(accepted=25, retried=0, parked=0)
    taken = int((NOON + AHEAD).timestamp())
    assert all(bench.world.meter_events(customer) == [(taken, 5)] for customer in customers.values())


def test_one_refusal_shows_stripes_clock_to_the_whole_run(bench: Bench) -> None:
    ahead(bench, 25)
    bench.send()
    assert len(bench.rows("SELECT 1 FROM meter_report WHERE identifier LIKE '%-%-%-%-%-%'")) == 1
    assert bench.rows("SELECT max(resends) FROM meter_report") == [(0,)]


@pytest.mark.holds("stripe.clock-differs")
def test_while_the_clocks_differ_each_period_is_told_though_late(bench: Bench) -> None:
    """A waiting report is not dropped for the next one: otherwise a busy account would never send any."""
    ((account, customer),) = ahead(bench, 1).items()
    for minutes in range(0, 60, 10):
        ours = NOON + AHEAD + minutes * MINUTE
        bench.world.advance(NOON + minutes * MINUTE)
        with bench.transaction() as connection:
            charge_all(connection, 100, at=ours)
        bench.sync(ours)
        assert bench.send().parked == 0
    told = bench.world.meter_events(customer)
    assert len(told) >= 2
    assert told[-1][0] >= (NOON + AHEAD + 20 * MINUTE).timestamp()
    bench.world.advance(NOON + 2 * HOUR)
    bench.sync(NOON + 2 * HOUR)
    bench.send()
    assert bench.world.meter_events(customer)[-1][1] == 5 + 6
    assert states(bench) <= {"accepted", "dropped"}, account


def test_a_report_that_is_hours_ahead_asks_again_once_an_hour(bench: Bench) -> None:
    ahead(bench, 1, by=6 * HOUR)
    bench.send()
    assert all(59 * MINUTE < wait <= HOUR for wait in waits(bench))


@pytest.mark.parametrize("by", [timedelta(0), 4 * MINUTE])
def test_a_report_within_stripes_five_minutes_is_sent_at_once(bench: Bench, by: timedelta) -> None:
    ahead(bench, 2, by=by)
    assert bench.send() == Sent(accepted=2, retried=0, parked=0)


@pytest.mark.holds("stripe.clock-differs")
def test_the_closing_quantity_is_counted_though_a_report_of_the_period_still_waits(bench: Bench) -> None:
    customer = bench.pay(team("one"))
    period_end = add_months(BEGIN, 1)
    bench.world.advance(period_end - 15 * MINUTE)
    bench.use(team("one"), 5, until=period_end - 6 * MINUTE)
    assert bench.sync(period_end - 5 * MINUTE) == 1
    assert bench.send().early == 1
    bench.use(team("one"), 2, until=period_end - MINUTE)
    bench.world.advance(period_end + MINUTE)
    with bench.transaction() as connection:
        assert report_closing_quantity(connection, team("one"), period_end=period_end) == 1
    assert bench.send() == Sent(accepted=1, retried=0, parked=0)
    bench.world.advance(period_end + GRACE)
    assert bench.world.billed_credits(customer) == [7]


@pytest.mark.holds("stripe.clock-differs")
def test_a_report_that_is_too_old_for_stripes_clock_is_dropped_and_the_next_one_tells_it(bench: Bench) -> None:
    ((account, customer),) = bench.crowd(1, at=NOON).items()
    bench.world.advance(NOON + 36 * DAY)
    sent = bench.send()
    assert (sent.accepted, sent.dropped, sent.parked) == (0, 1, 0)
    (noted,) = bench.rows("SELECT attribution_id, details FROM audit WHERE action = 'meter_report.drop'")
    assert (noted.attribution_id, noted.details["quantity"]) == (account, 5)
    assert bench.sync(NOON + 36 * DAY) == 1
    assert bench.send().accepted == 1
    assert bench.world.meter_events(customer) == [(int((NOON + 36 * DAY).timestamp()), 5)]


@pytest.mark.holds("stripe.meter-error")
def test_an_event_that_failed_later_for_being_early_is_sent_anew_as_often_as_it_takes(bench: Bench) -> None:
    ahead(bench, 1, by=8 * HOUR)
    bench.world.switch("meters", errors_later=True)
    for _ in range(6):
        assert bench.send().accepted == 1
        bench.receive(types="")
        event = bench.world.thin_events()[-1]
        bench.execute(
            "INSERT INTO stripe_event (event_id, type, created_at) "
            "VALUES (:id, 'v1.billing.meter.error_report_triggered', now())",
            id=event,
        )
        bench.apply(NOON)
        assert states(bench) == {"pending"}
        due_now(bench)
    bench.world.advance(NOON + 8 * HOUR)
    assert bench.send().accepted == 1


@pytest.mark.holds("stripe.clock-differs")
def test_once_the_clocks_agree_the_next_sync_sends_what_waits(bench: Bench, rt: Runtime, broker: str) -> None:
    customers = ahead(bench, 3, by=6 * HOUR)
    assert bench.send().early == 3
    bench.world.advance(NOON + 6 * HOUR)
    TestClock(rt.redis).advance(NOON + 6 * HOUR)
    sync.sync_billing()
    answer: Any = sync.send_meter_events()
    assert (answer["accepted"], answer["early"]) == (3, 0)
    taken = int((NOON + 6 * HOUR).timestamp())
    assert all(bench.world.meter_events(customer) == [(taken, 5)] for customer in customers.values())


PARK = "UPDATE meter_report SET state = 'parked', parked_at = now(), error = :reason"


@pytest.mark.parametrize(
    "reason", [OLD_REASON, "stripe could not count it: timestamp_in_future"], ids=["refused", "complained of"]
)
def test_who_was_parked_for_a_clock_by_an_older_version_is_let_go_by_the_next_sync(
    bench: Bench, rt: Runtime, broker: str, reason: str
) -> None:
    TestClock(rt.redis).advance(NOON)
    (customer,) = bench.crowd(1, at=NOON).values()
    bench.execute(PARK, reason=reason)
    sync.sync_billing()
    assert states(bench) == {"pending"}
    assert bench.send() == Sent(accepted=1, retried=0, parked=0)
    assert bench.world.meter_events(customer) == [(int(NOON.timestamp()), 5)]


@pytest.mark.parametrize(
    "reason",
    [
        "stripe meter_events.create: InvalidRequestError 400 resource_missing request req_1: No such customer",
        "stripe could not count it: meter_event_customer_not_found",
    ],
)
def test_who_is_parked_for_another_reason_stays_so(bench: Bench, rt: Runtime, broker: str, reason: str) -> None:
    TestClock(rt.redis).advance(NOON)
    bench.crowd(1, at=NOON)
    bench.execute(PARK, reason=reason)
    sync.sync_billing()
    assert states(bench) == {"parked"}


def test_the_task_says_how_many_wait_and_how_far_stripes_clock_is_behind(
    bench: Bench, rt: Runtime, broker: str
) -> None:
    ahead(bench, 3)
    with capture_logs() as lines:
        answer: Any = sync.send_meter_events()
    assert (answer["early"], answer["parked"]) == (3, 0)
    (told,) = [line for line in lines if line["event"] == "stripe.clock_differs"]
    assert (told["log_level"], told["early"]) == ("warning", 3)
    assert told["stripe_behind_seconds"] == pytest.approx(AHEAD.total_seconds(), abs=60)


@pytest.fixture
def event() -> MeterEvent:
    return MeterEvent(identifier="one:1", customer_id=StripeCustomerId("cus_1"), quantity=1, as_of=NOON)


@pytest.mark.parametrize(
    "refusal",
    [
        error("Whatever Stripe may say."),
        error("The timestamp must be within the past 35 calendar days or up to 5 minutes in the future."),
        error("no", code="timestamp_in_future"),
    ],
)
def test_only_a_refusal_of_the_timestamp_is_about_a_clock(event: MeterEvent, refusal: dict[str, object]) -> None:
    # The canned server's clock is the real one, which is years from the event's time on one side or the other.
    with answering((400, refusal)) as refusing:
        gateway = LiveGateway(secret_key=KEY, meter_event_name="usage_credits", api_base=refusing.url)
        with pytest.raises((PermanentError, TooEarlyError)) as caught:
            gateway.send_meter_event(event)
    about_clock = isinstance(caught.value, TooEarlyError | TooOldError)
    assert about_clock == ("Whatever" not in str(refusal))
