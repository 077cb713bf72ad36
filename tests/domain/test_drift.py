from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.factories import team
from usage_tasks.domain.drift import MeterStanding, window_of
from usage_tasks.domain.meter_errors import MeterErrorVerdict, judge_meter_error
from usage_tasks.domain.payments import StripeCustomerId

MINUTE = timedelta(minutes=1)
CYCLE = datetime(2026, 1, 31, 10, 0, 37, tzinfo=UTC)
TOLD = datetime(2026, 2, 3, 12, 30, 20, tzinfo=UTC)
AT = datetime(2026, 2, 3, 13, 0, 5, tzinfo=UTC)
STANDING = MeterStanding(
    attribution_id=team(),
    customer_id=StripeCustomerId("cus_1"),
    subscribed=True,
    parked=False,
    cycle_started_at=CYCLE,
    identifier="report",
    as_of=TOLD,
    quantity=5,
    next_as_of=None,
    latest=True,
)
SILENT = replace(STANDING, as_of=None, identifier=None, quantity=0)


def test_the_meter_is_asked_from_the_minute_of_the_report_to_the_present_minute() -> None:
    window = (TOLD - timedelta(seconds=20), AT - timedelta(seconds=5))
    assert window_of(STANDING, at=AT) == window_of(STANDING, at=AT + timedelta(microseconds=1)) == window


def test_the_meter_is_not_asked_beyond_the_next_report() -> None:
    following = replace(STANDING, next_as_of=TOLD + 2 * MINUTE)
    assert window_of(following, at=AT) == (TOLD - timedelta(seconds=20), TOLD + 2 * MINUTE - timedelta(seconds=20))


@pytest.mark.parametrize(
    ("standing", "at"),
    [
        (STANDING, TOLD + timedelta(seconds=39)),
        (replace(STANDING, next_as_of=TOLD + timedelta(seconds=1)), AT),
        (SILENT, CYCLE + timedelta(seconds=22)),
    ],
)
def test_a_minute_that_is_not_over_or_holds_another_report_says_nothing(standing: MeterStanding, at: datetime) -> None:
    assert window_of(standing, at=at) is None


def test_before_the_first_report_the_meter_is_asked_without_the_minute_of_the_closing_report() -> None:
    assert window_of(SILENT, at=AT) == (CYCLE + timedelta(seconds=23), AT - timedelta(seconds=5))
    whole = replace(SILENT, cycle_started_at=CYCLE.replace(second=0))
    assert window_of(whole, at=AT) == (CYCLE.replace(second=0), AT - timedelta(seconds=5))


@pytest.mark.holds("stripe.meter-error", "lesson.runaway")
@pytest.mark.parametrize("code", ["no_meter", "archived_meter"])
def test_what_nobody_is_to_blame_for_is_sent_anew_after_growing_pauses_and_parked_in_the_end(code: str) -> None:
    pauses = (timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6))
    for resends, pause in enumerate(pauses):
        assert judge_meter_error(code, resends=resends) == (MeterErrorVerdict.SEND_ANEW, pause)
    assert judge_meter_error(code, resends=len(pauses)) == (MeterErrorVerdict.PARK, timedelta(0))


@pytest.mark.parametrize(("resends", "hours"), [(1, 1), (2, 6), (3, 6), (100, 6)])
def test_what_is_early_for_stripes_clock_is_sent_anew_as_often_as_it_takes(resends: int, hours: int) -> None:
    verdict = judge_meter_error("timestamp_in_future", resends=resends)
    assert verdict == (MeterErrorVerdict.SEND_ANEW, timedelta(hours=hours))


@pytest.mark.holds("stripe.meter-error", "lesson.runaway")
@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("meter_event_customer_not_found", MeterErrorVerdict.PARK),
        ("meter_event_no_customer_defined", MeterErrorVerdict.PARK),
        ("meter_event_invalid_value", MeterErrorVerdict.PARK),
        ("meter_event_value_not_found", MeterErrorVerdict.PARK),
        ("timestamp_too_far_in_past", MeterErrorVerdict.DROP),
        ("a code of the future", MeterErrorVerdict.PARK),
    ],
)
def test_what_another_try_cannot_mend_is_dropped_where_it_is_too_old_and_else_parked(
    code: str, verdict: MeterErrorVerdict
) -> None:
    assert judge_meter_error(code, resends=0) == (verdict, timedelta(0))
