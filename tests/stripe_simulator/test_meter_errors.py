import json
from typing import Any

import pytest
import requests
import stripe

from tests.stripe_simulator.conftest import SECRET, START, Account, Receiver, wait_until
from tests.stripe_simulator.thin_events import check_event

DAY = 86400
REPORTED = "v1.billing.meter.error_report_triggered"


def notification(account: Account, receiver: Receiver) -> Any:
    """The one thin event that arrived, parsed by the SDK."""
    wait_until(lambda: len(receiver.thin) == 1)
    body, signature = receiver.thin.pop()
    check_event(json.loads(body), notification=True)
    return account.client.parse_event_notification(body, signature, SECRET)


def summed(account: Account, meter: str, customer: str) -> float:
    span = {"customer": customer, "start_time": START, "end_time": START + 3600}
    (summary,) = account.v1.billing.meters.event_summaries.list(meter, span).data
    value: float = summary.aggregated_value
    return value


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({"payload": {"stripe_customer_id": "cus_none", "value": "1"}}, "meter_event_customer_not_found"),
        ({"payload": {"value": "1"}}, "meter_event_no_customer_defined"),
        ({"value": "much"}, "meter_event_invalid_value"),
        ({"value": "1e-13"}, "meter_event_value_too_many_digits"),
        ({"timestamp": START - 35 * DAY - 1}, "timestamp_too_far_in_past"),
        ({"timestamp": START + 301}, "timestamp_in_future"),
    ],
)
def test_a_bad_event_may_be_accepted_and_reported_by_a_thin_event(
    watched: Account, receiver: Receiver, bad: dict[str, Any], code: str
) -> None:
    price = watched.metered_price()
    known = watched.subscribe(price).customer
    watched.switch("meters", errors_later=True)
    payload = {"stripe_customer_id": known, "value": bad.get("value", "1")}
    event = {"event_name": "last", "payload": payload, "timestamp": START, **bad}
    event.pop("value", None)
    watched.v1.billing.meter_events.create(event, {"idempotency_key": "report-1"})
    arrived = notification(watched, receiver)
    assert arrived.type == REPORTED
    assert arrived.related_object.id == price.recurring.meter
    assert arrived.fetch_related_object().id == price.recurring.meter
    reason = arrived.fetch_event().data.reason
    assert reason.error_count == 1
    assert [(one.code, one.error_count) for one in reason.error_types] == [(code, 1)]
    assert reason.error_types[0].sample_errors[0].request.identifier == "report-1"
    assert summed(watched, price.recurring.meter, known) == 0


def test_events_without_a_meter_are_reported_without_one(watched: Account, receiver: Receiver) -> None:
    watched.switch("meters", errors_later=True)
    watched.report("cus_any", "1", at=START, event_name="unknown")
    arrived = notification(watched, receiver)
    assert arrived.type == "v1.billing.meter.no_meter_found"
    assert [one.code for one in arrived.fetch_event().data.reason.error_types] == ["no_meter"]


def test_events_of_a_deactivated_meter_are_reported_as_archived(watched: Account, receiver: Receiver) -> None:
    price = watched.metered_price()
    customer = watched.subscribe(price).customer
    watched.v1.billing.meters.deactivate(price.recurring.meter)
    watched.switch("meters", errors_later=True)
    watched.report(customer, "1", at=START)
    (error_type,) = notification(watched, receiver).fetch_event().data.reason.error_types
    assert error_type.code == "archived_meter"


def test_one_customer_may_be_made_to_fail(watched: Account, receiver: Receiver) -> None:
    price = watched.metered_price()
    bad, good = watched.subscribe(price).customer, watched.subscribe(price).customer
    watched.switch("meters", reject={bad: "meter_event_customer_not_found"})
    for customer in (bad, good):
        watched.report(customer, "4", at=START)
    notification(watched, receiver)
    assert summed(watched, price.recurring.meter, bad) == 0
    assert summed(watched, price.recurring.meter, good) == 4
    watched.switch("meters", reject={})
    watched.report(bad, "5", at=START)
    assert summed(watched, price.recurring.meter, bad) == 5
    with pytest.raises(stripe.InvalidRequestError):
        watched.report("cus_none", "1", at=START)


def test_errors_are_collected_into_one_report_until_its_time(watched: Account, receiver: Receiver) -> None:
    watched.metered_price()
    watched.switch("meters", errors_later=True, report_after_seconds=600)
    for number in range(12):
        watched.report("cus_none", "1", at=START, identifier=f"report-{number}")
    watched.report("cus_none", "much", at=START - 36 * DAY)
    watched.advance(START + 599)
    assert receiver.thin == []
    watched.advance(START + 600)
    data = notification(watched, receiver).fetch_event().data
    (error_type,) = data.reason.error_types
    assert (data.reason.error_count, error_type.error_count, len(error_type.sample_errors)) == (13, 13, 10)
    assert (data.validation_start, data.validation_end) == ("2026-01-31T10:00:00.000Z", "2026-01-31T10:01:00.000Z")


def test_a_thin_event_can_be_fetched_for_thirty_days(watched: Account, receiver: Receiver) -> None:
    watched.switch("meters", errors_later=True)
    watched.report("cus_any", "1", at=START, event_name="unknown")
    arrived = notification(watched, receiver)
    watched.advance(START + 30 * DAY)
    arrived.fetch_event()
    watched.advance(START + 30 * DAY + 1)
    with pytest.raises(stripe.InvalidRequestError, match="No such event"):
        arrived.fetch_event()


def test_an_identifier_is_remembered_for_a_day_also_that_of_a_bad_event(account: Account) -> None:
    customer = account.subscribe(account.metered_price()).customer
    account.report(customer, "1", at=START, identifier="good")
    account.switch("meters", errors_later=True)
    account.report("cus_none", "1", at=START, identifier="bad")
    account.advance(START + DAY - 1)
    for identifier in ("good", "bad"):
        with pytest.raises(stripe.InvalidRequestError, match=f"identifier {identifier}"):
            account.report(customer, "2", at=START, identifier=identifier)
    account.advance(START + DAY)
    for identifier in ("good", "bad"):
        account.report(customer, "2", at=START, identifier=identifier)


def test_a_switch_of_the_meters_that_nobody_means_is_refused(account: Account) -> None:
    reply = requests.post(f"{account.url}/_simulator/meters", json={"reject": {"cus_1": "no_reason"}}, timeout=5)
    assert reply.status_code == 400


def test_summaries_by_day_follow_the_formula(account: Account) -> None:
    price = account.metered_price()
    customer = account.subscribe(price).customer
    midnight = START // DAY * DAY
    for at, value in ((midnight, "3"), (midnight + 60, "4"), (midnight - 1, "9")):
        account.report(customer, value, at=at)
    span = {"customer": customer, "start_time": midnight - DAY, "end_time": midnight + DAY}
    daily = account.v1.billing.meters.event_summaries.list(
        price.recurring.meter, {**span, "value_grouping_window": "day"}
    )
    assert [(one.start_time, one.aggregated_value) for one in daily.data] == [(midnight, 4), (midnight - DAY, 9)]


def test_meters_are_listed_by_status_and_say_how_they_count(account: Account) -> None:
    last, total = (account.metered_price(formula=formula).recurring.meter for formula in ("last", "sum"))
    account.v1.billing.meters.deactivate(total)
    (active,) = account.v1.billing.meters.list({"status": "active"}).data
    assert (active.id, active.event_name, active.default_aggregation.formula) == (last, "last", "last")
    assert account.v1.billing.meters.retrieve(total).status == "inactive"


def test_thin_events_are_listed_newest_first_and_paged(account: Account) -> None:
    price = account.metered_price()
    meter, owner = price.recurring.meter, account.subscribe(price).customer
    account.switch("meters", errors_later=True)
    for number in range(3):
        account.advance(START + number)
        account.report(owner, "much", at=START)
    thin = account.client.v2.core.events
    listed = list(thin.list({"limit": 2, "object_id": meter, "types": [REPORTED]}).auto_paging_iter())
    assert [event.type for event in listed] == 3 * [REPORTED]
    assert [event.created for event in listed] == [f"2026-01-31T10:00:0{second}.000Z" for second in (2, 1, 0)]
    since = thin.list({"created": {"gte": "2026-01-31T10:00:01Z"}})
    assert [event.id for event in since.data] == [event.id for event in listed[:2]]
    assert thin.list({"object_id": "mtr_none"}).data == []
