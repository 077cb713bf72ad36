from typing import Any

import pytest
import requests
import stripe

from tests.stripe_simulator.conftest import START, Account, connect
from usage_tasks.stripe_simulator import Settings, serve

DAY = 86400


def refused(call: Any, *arguments: Any) -> stripe.StripeError:
    with pytest.raises(stripe.StripeError) as caught:
        call(*arguments)
    return caught.value


def test_a_meter_event_with_a_known_identifier_is_refused_by_name(account: Account) -> None:
    customer = account.subscribe(account.metered_price()).customer
    account.report(customer, "1", at=START, identifier="report-1")
    with pytest.raises(stripe.InvalidRequestError, match="identifier report-1") as caught:
        account.report(customer, "2", at=START, identifier="report-1")
    assert caught.value.http_status == 400


def test_a_meter_event_may_be_35_days_old_and_5_minutes_ahead(account: Account) -> None:
    customer = account.subscribe(account.metered_price()).customer
    account.report(customer, "1", at=START - 35 * DAY)
    account.report(customer, "1", at=START + 300)
    for at in (START - 35 * DAY - 1, START + 301):
        with pytest.raises(stripe.InvalidRequestError, match="timestamp"):
            account.report(customer, "1", at=at)


def test_a_meter_event_needs_a_meter_a_customer_and_a_number(account: Account) -> None:
    customer = account.subscribe(account.metered_price()).customer
    values = [(customer, value, "last") for value in ("much", "NaN", "1e30", "1e-13")]
    for arguments in (("cus_none", "1", "last"), (customer, "1", "other"), *values):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            account.report(arguments[0], arguments[1], at=START, event_name=arguments[2])
        assert caught.value.http_status == 400


def test_the_same_key_and_parameters_get_the_same_reply(account: Account) -> None:
    options = {"idempotency_key": "customer:team-1"}
    first = account.v1.customers.create({"email": "a@example.com"}, options)
    second = account.v1.customers.create({"email": "a@example.com"}, options)
    assert second.id == first.id
    assert second.last_response.headers["Idempotent-Replayed"] == "true"
    assert len(account.v1.customers.list().data) == 1


def test_the_same_key_with_other_parameters_is_a_conflict(account: Account) -> None:
    options = {"idempotency_key": "customer:team-1"}
    account.v1.customers.create({"email": "a@example.com"}, options)
    error = refused(account.v1.customers.create, {"email": "b@example.com"}, options)
    assert isinstance(error, stripe.IdempotencyError)
    assert error.http_status == 400


def test_a_refusal_is_replayed_too_until_the_key_expires(account: Account) -> None:
    options = {"idempotency_key": "product-1"}
    account.v1.products.create({"name": "Usage", "id": "prod_usage"})
    for _ in range(2):
        refused(account.v1.products.create, {"name": "Usage", "id": "prod_usage"}, options)
    account.advance(START + DAY + 1)
    account.v1.products.create({"name": "Usage", "id": "prod_other"}, options)


def test_an_unknown_parameter_is_named(account: Account) -> None:
    error = refused(account.v1.customers.create, {"emial": "a@example.com"})
    assert isinstance(error, stripe.InvalidRequestError)
    assert (error.code, error.param, error.http_status) == ("parameter_unknown", "emial", 400)


def test_an_unknown_nested_parameter_is_named(account: Account) -> None:
    customer = account.v1.customers.create()
    params = {"customer": customer.id, "items": [{"pricex": "price_1"}]}
    error = refused(account.v1.subscriptions.create, params)
    assert isinstance(error, stripe.InvalidRequestError)
    assert (error.code, error.param) == ("parameter_unknown", "items[0][pricex]")


def test_a_missing_parameter_is_named(account: Account) -> None:
    error = refused(account.v1.subscriptions.create, {"customer": "cus_1"})
    assert isinstance(error, stripe.InvalidRequestError)
    assert (error.code, error.param) == ("parameter_missing", "items")


def test_a_missing_object_is_a_404(account: Account) -> None:
    error = refused(account.v1.customers.retrieve, "cus_none")
    assert (error.code, error.http_status) == ("resource_missing", 404)
    assert str(error.request_id).startswith("req_")


def test_what_is_not_simulated_says_so(account: Account) -> None:
    error = refused(account.v1.setup_intents.retrieve, "seti_1")
    assert error.http_status == 404
    assert "/v1/setup_intents/seti_1" in str(error)


def test_a_key_of_a_live_account_is_refused(account: Account) -> None:
    client = stripe.StripeClient("sk_live_x", base_addresses={"api": account.url})
    assert isinstance(refused(client.v1.customers.list), stripe.AuthenticationError)


def test_automatic_tax_needs_an_address(account: Account) -> None:
    price = account.metered_price()
    customer = account.v1.customers.create()
    params = {"customer": customer.id, "items": [{"price": price.id}], "automatic_tax": {"enabled": True}}
    assert refused(account.v1.subscriptions.create, params).code == "customer_tax_location_invalid"
    account.v1.customers.update(customer.id, {"address": {"country": "DE"}})
    assert account.v1.subscriptions.create(params).automatic_tax.enabled


def test_a_summary_adds_up_whole_minutes_and_hours(account: Account) -> None:
    price = account.metered_price(formula="sum")
    customer = account.subscribe(price).customer
    for at, value in ((START - 3600, "4"), (START, "1.5"), (START + 60, "2")):
        account.report(customer, value, at=at, event_name="sum")
    span = {"customer": customer, "start_time": START, "end_time": START + 3600}
    meter = price.recurring.meter
    assert [one.aggregated_value for one in account.v1.billing.meters.event_summaries.list(meter, span).data] == [3.5]
    hourly = account.v1.billing.meters.event_summaries.list(meter, {**span, "value_grouping_window": "hour"})
    assert [(one.start_time, one.aggregated_value) for one in hourly.data] == [(START, 3.5)]
    assert refused(account.v1.billing.meters.event_summaries.list, meter, {**span, "start_time": START + 1})


def test_a_deactivated_meter_takes_no_events(account: Account) -> None:
    price = account.metered_price()
    customer = account.subscribe(price).customer
    assert account.v1.billing.meters.deactivate(price.recurring.meter).status == "inactive"
    with pytest.raises(stripe.InvalidRequestError, match="No active meter"):
        account.report(customer, "1", at=START)


def test_admin_routes_need_no_key_and_name_what_they_do_not_know(account: Account) -> None:
    assert requests.get(f"{account.url}/_simulator/health", timeout=5).status_code == 200
    assert requests.get(f"{account.url}/_simulator/clock", timeout=5).json() == {"now": START, "frozen": True}
    assert requests.get(f"{account.url}/_simulator/nothing", timeout=5).status_code == 404
    assert requests.post(f"{account.url}/_simulator/clock", json={"advance_to": "soon"}, timeout=5).status_code == 400


def test_the_clock_refuses_a_jump_that_nobody_means(account: Account) -> None:
    reply = requests.post(f"{account.url}/_simulator/clock", json={"advance_to": 10**15}, timeout=5)
    assert reply.status_code == 400


def test_amounts_and_values_at_their_bounds_are_exact(account: Account) -> None:
    subscription = account.subscribe(account.metered_price(unit_amount_decimal="0.000000000001"))
    account.report(subscription.customer, "999999999999999.5", at=START)
    account.advance(START + 29 * DAY)
    line = account.v1.invoices.list({"subscription": subscription.id}).data[0].lines.data[0]
    assert (str(line.quantity_decimal), line.amount) == ("999999999999999.5", 1000)


def test_on_the_real_clock_a_request_does_what_has_fallen_due() -> None:
    with serve(Settings()) as server:
        account = connect(server.url)
        subscription = account.subscribe(account.metered_price())
        with server.simulator.store.transaction():
            server.simulator.store.execute("UPDATE due SET at = :at", at=subscription.created)
        found = account.v1.invoices.list({"subscription": subscription.id}).data
        assert [invoice.status for invoice in found] == ["draft", "paid"]
