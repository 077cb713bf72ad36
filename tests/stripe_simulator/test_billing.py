from decimal import Decimal
from typing import Any

import pytest
import stripe

from tests.stripe_simulator.conftest import DECLINED, FIRST_END, SECOND_END, START, Account, unix
from usage_tasks.stripe_simulator.http.server import Server
from usage_tasks.stripe_simulator.time.periods import period_end

HOUR = 3600


def invoices_of(account: Account, subscription: Any) -> list[Any]:
    """The subscription's invoices, oldest first."""
    return list(reversed(account.v1.invoices.list({"subscription": subscription.id}).data))


def test_a_month_with_formula_last_ends_in_an_invoice_over_the_latest_value(account: Account) -> None:
    price = account.metered_price(unit_amount_decimal="1.5")
    subscription = account.subscribe(price)
    account.report(subscription.customer, "12.5", at=None)
    account.report(subscription.customer, "7", at=START - 60)
    account.advance(FIRST_END + HOUR)
    first, second = invoices_of(account, subscription)
    assert (first.status, first.total, first.billing_reason) == ("paid", 0, "subscription_create")
    assert (second.status, second.total, second.billing_reason) == ("paid", 19, "subscription_cycle")
    assert (second.created, second.period_start, second.period_end) == (FIRST_END, START, FIRST_END)
    assert second.status_transitions.finalized_at == FIRST_END + HOUR
    assert second.parent.subscription_details.subscription == subscription.id
    line = second.lines.data[0]
    assert (line.quantity, line.quantity_decimal) == (12, Decimal("12.5"))
    assert line.parent.subscription_item_details.subscription == subscription.id
    assert line.pricing.price_details.price == price.id


def test_the_events_of_a_month_come_in_the_order_of_time(account: Account) -> None:
    account.subscribe(account.metered_price())
    before = len(account.event_types())
    account.advance(FIRST_END + HOUR)
    assert account.event_types()[before - 4 : before] == [
        "customer.subscription.created",
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
    ]
    assert account.event_types()[before:] == [
        "invoice.created",
        "customer.subscription.updated",
        "invoice.finalized",
        "invoice.paid",
    ]


def test_an_event_sent_during_the_grace_and_dated_inside_the_period_counts(account: Account) -> None:
    subscription = account.subscribe(account.metered_price())
    account.report(subscription.customer, "5", at=START + 60)
    account.advance(FIRST_END + 30 * 60)
    draft = invoices_of(account, subscription)[-1]
    assert (draft.status, draft.lines.data[0].quantity) == ("draft", 5)
    account.report(subscription.customer, "8", at=FIRST_END - 1)
    account.advance(FIRST_END + HOUR)
    assert account.v1.invoices.retrieve(draft.id).lines.data[0].quantity == 8


def test_an_event_dated_at_the_period_end_counts_for_the_next_period(account: Account) -> None:
    subscription = account.subscribe(account.metered_price())
    account.advance(FIRST_END)
    account.report(subscription.customer, "8", at=FIRST_END)
    account.advance(SECOND_END + HOUR)
    assert [invoice.lines.data[0].quantity for invoice in invoices_of(account, subscription)] == [0, 0, 8]


def test_an_event_after_finalization_changes_nothing(account: Account) -> None:
    subscription = account.subscribe(account.metered_price())
    account.advance(FIRST_END + HOUR)
    account.report(subscription.customer, "8", at=FIRST_END - 1)
    assert invoices_of(account, subscription)[-1].total == 0


@pytest.mark.parametrize(("formula", "quantity"), [("last", 4), ("sum", 9), ("count", 3)])
def test_each_formula_has_its_quantity(account: Account, formula: str, quantity: int) -> None:
    subscription = account.subscribe(account.metered_price(formula=formula))
    for second, value in enumerate(("2", "3", "4")):
        account.report(subscription.customer, value, at=START + second, event_name=formula)
    account.advance(FIRST_END + HOUR)
    assert invoices_of(account, subscription)[-1].lines.data[0].quantity == quantity


def test_a_negative_total_bills_nothing(account: Account) -> None:
    subscription = account.subscribe(account.metered_price())
    account.report(subscription.customer, "-3", at=START)
    account.advance(FIRST_END + HOUR)
    assert invoices_of(account, subscription)[-1].lines.data[0].quantity == 0


def test_a_licensed_item_is_billed_in_advance_beside_the_metered_one(account: Account) -> None:
    subscription = account.subscribe(account.metered_price(), account.flat_price(900))
    account.report(subscription.customer, "5", at=START)
    account.advance(FIRST_END + HOUR)
    first, second = invoices_of(account, subscription)
    assert (first.total, second.total) == (900, 905)
    usage, seat = second.lines.data
    assert (usage.period.start, usage.period.end) == (START, FIRST_END)
    assert (seat.period.start, seat.period.end) == (FIRST_END, SECOND_END)


def test_a_declined_payment_leaves_the_invoice_open_until_it_is_voided(account: Account) -> None:
    subscription = account.subscribe(account.metered_price(), metadata=DECLINED)
    account.report(subscription.customer, "5", at=START)
    account.advance(FIRST_END + HOUR)
    invoice = invoices_of(account, subscription)[-1]
    assert (invoice.status, invoice.amount_remaining, invoice.attempt_count) == ("open", 5, 1)
    assert account.v1.subscriptions.retrieve(subscription.id).status == "past_due"
    assert "invoice.payment_failed" in account.event_types()
    assert account.v1.invoices.void_invoice(invoice.id).status == "void"
    assert account.v1.subscriptions.retrieve(subscription.id).status == "active"


def test_a_draft_can_be_finalized_before_its_time(account: Account) -> None:
    subscription = account.subscribe(account.metered_price())
    account.report(subscription.customer, "5", at=START)
    account.advance(FIRST_END)
    draft = invoices_of(account, subscription)[-1]
    final = account.v1.invoices.finalize_invoice(draft.id, {"auto_advance": True})
    assert (final.status, final.total, final.status_transitions.finalized_at) == ("paid", 5, FIRST_END)
    with pytest.raises(stripe.InvalidRequestError, match="already finalized"):
        account.v1.invoices.finalize_invoice(draft.id)
    account.advance(FIRST_END + HOUR)
    assert account.event_types().count("invoice.finalized") == 2  # the first invoice's, and this one's


def test_an_open_invoice_can_be_given_up(account: Account) -> None:
    subscription = account.subscribe(account.metered_price(), metadata=DECLINED)
    account.report(subscription.customer, "5", at=START)
    account.advance(FIRST_END + HOUR)
    identifier = invoices_of(account, subscription)[-1].id
    assert account.v1.invoices.mark_uncollectible(identifier).status == "uncollectible"
    assert account.event_types()[-2:] == ["invoice.marked_uncollectible", "customer.subscription.updated"]


def test_a_subscription_of_the_31st_keeps_its_day_in_long_months(account: Account) -> None:
    subscription = account.subscribe(account.metered_price())
    item = subscription["items"].data[0]
    assert (item.current_period_start, item.current_period_end) == (START, FIRST_END)
    account.advance(FIRST_END)
    item = account.v1.subscriptions.retrieve(subscription.id)["items"].data[0]
    assert (item.current_period_start, item.current_period_end) == (FIRST_END, SECOND_END)


def test_anchored_months_follow_the_anchor_over_four_years() -> None:
    anchor = start = unix("2024-01-31T23:59:59")
    days = []
    for _ in range(48):
        start = period_end(anchor=anchor, start=start, interval="month", count=1)
        days.append(start)
    assert days[0] == unix("2024-02-29T23:59:59")
    assert days[12] == unix("2025-02-28T23:59:59")
    assert days[13] == unix("2025-03-31T23:59:59")
    assert days[-1] == unix("2028-01-31T23:59:59")


def test_cancelling_at_once_bills_open_usage_only_when_asked(account: Account) -> None:
    price = account.metered_price()
    quiet, billed = account.subscribe(price), account.subscribe(price)
    for subscription in (quiet, billed):
        account.report(subscription.customer, "5", at=START)
    account.advance(START + HOUR)
    assert account.v1.subscriptions.cancel(quiet.id).status == "canceled"
    account.v1.subscriptions.cancel(billed.id, {"invoice_now": True})
    account.advance(SECOND_END)
    assert [invoice.total for invoice in invoices_of(account, quiet)] == [0]
    assert [invoice.total for invoice in invoices_of(account, billed)] == [0, 5]


def test_cancelling_at_the_period_end_bills_the_last_period(account: Account) -> None:
    subscription = account.subscribe(account.metered_price())
    account.v1.subscriptions.update(subscription.id, {"cancel_at_period_end": True})
    account.report(subscription.customer, "5", at=START)
    account.advance(SECOND_END)
    assert [invoice.total for invoice in invoices_of(account, subscription)] == [0, 5]
    ended = account.v1.subscriptions.retrieve(subscription.id)
    assert (ended.status, ended.ended_at) == ("canceled", FIRST_END)


def test_a_test_clock_moves_its_customers_only(account: Account) -> None:
    price = account.metered_price()
    clock = account.v1.test_helpers.test_clocks.create({"frozen_time": START, "name": "mine"})
    mine, other = account.subscribe(price, test_clock=clock.id), account.subscribe(price)
    advanced = account.v1.test_helpers.test_clocks.advance(clock.id, {"frozen_time": FIRST_END + HOUR})
    assert (advanced.frozen_time, advanced.status) == (FIRST_END + HOUR, "ready")
    assert len(invoices_of(account, mine)) == 2
    assert len(invoices_of(account, other)) == 1


def test_the_clock_never_moves_back(account: Account) -> None:
    account.advance(FIRST_END)
    assert account.advance(START) == FIRST_END


def test_a_long_jump_bills_every_month_of_every_subscription(account: Account, simulator: Server) -> None:
    price = account.metered_price()
    subscriptions = [account.subscribe(price) for _ in range(20)]
    account.advance(unix("2027-01-31T11:00:00"))
    assert {len(invoices_of(account, one)) for one in subscriptions} == {10}
    kept = simulator.simulator.store.row("SELECT count(*) FROM object WHERE type = 'invoice'")
    assert kept == (20 * 13,)


def test_a_customer_has_one_currency_at_a_time(account: Account) -> None:
    customer = account.v1.customers.create({}).id
    dollars, euros = (
        account.flat_price(900),
        account.v1.prices.create(
            {
                "currency": "eur",
                "unit_amount": 900,
                "product_data": {"name": "Seat"},
                "recurring": {"interval": "month"},
            }
        ),
    )
    first = account.v1.subscriptions.create({"customer": customer, "items": [{"price": dollars.id}]})
    asked = {"customer": customer, "items": [{"price": euros.id}]}
    with pytest.raises(stripe.InvalidRequestError, match="cannot combine currencies"):
        account.v1.subscriptions.create(asked)
    account.v1.subscriptions.cancel(first.id)
    assert account.v1.subscriptions.create(asked).currency == "eur"
    assert account.v1.customers.retrieve(customer).currency == "eur"
