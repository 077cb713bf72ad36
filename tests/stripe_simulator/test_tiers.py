from decimal import Decimal
from typing import Any

import pytest
import stripe

from tests.stripe_simulator.conftest import FIRST_END, START, Account

HOUR = 3600
FONTS: list[dict[str, Any]] = [
    {"up_to": 5, "unit_amount": 700},
    {"up_to": 10, "unit_amount": 650},
    {"up_to": "inf", "unit_amount": 600},
]
"""The example of https://docs.stripe.com/subscriptions/pricing-models/tiered-pricing."""


def tiered_price(account: Account, mode: str, tiers: list[dict[str, Any]]) -> Any:
    meter = account.v1.billing.meters.create(
        {"display_name": "last", "event_name": "last", "default_aggregation": {"formula": "last"}}
    )
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter.id}
    charges = {"billing_scheme": "tiered", "tiers_mode": mode, "tiers": tiers, "expand": ["tiers"]}
    return account.v1.prices.create(
        {"currency": "usd", "recurring": recurring, "product_data": {"name": "Fonts"}, **charges}
    )


def billed(account: Account, price: Any, used: str) -> Any:
    """The invoice of a month in which so much was used."""
    subscription = account.subscribe(price)
    account.report(subscription.customer, used, at=START)
    account.advance(FIRST_END + HOUR)
    return account.v1.invoices.list({"subscription": subscription.id}).data[0]


@pytest.mark.parametrize(
    ("mode", "used", "total", "quantities"),
    [
        ("volume", "1", 700, ["1"]),
        ("volume", "5", 3500, ["5"]),
        ("volume", "6", 3900, ["6"]),
        ("volume", "20", 12000, ["20"]),
        ("graduated", "5", 3500, ["5"]),
        ("graduated", "6", 4150, ["5", "1"]),
        ("graduated", "25", 15750, ["5", "5", "15"]),
        ("graduated", "5.5", 3825, ["5", "0.5"]),
        ("graduated", "0", 0, ["0"]),
    ],
)
def test_tiers_bill_as_in_the_documentation(
    account: Account, mode: str, used: str, total: int, quantities: list[str]
) -> None:
    invoice = billed(account, tiered_price(account, mode, FONTS), used)
    assert invoice.total == total
    assert [line.quantity_decimal for line in invoice.lines.data] == [Decimal(one) for one in quantities]
    assert len({line.id for line in invoice.lines.data}) == len(quantities)


@pytest.mark.parametrize(("used", "total"), [("0", 1000), ("2", 1000), ("3", 3050)])
def test_the_flat_amount_of_a_tier_is_due_once_it_is_reached(account: Account, used: str, total: int) -> None:
    tiers: list[dict[str, Any]] = [
        {"up_to": 2, "flat_amount": 1000},
        {"up_to": "inf", "flat_amount": 2000, "unit_amount_decimal": "50"},
    ]
    assert billed(account, tiered_price(account, "graduated", tiers), used).total == total


def test_usage_within_the_grace_moves_a_draft_to_other_tiers(account: Account) -> None:
    subscription = account.subscribe(tiered_price(account, "graduated", FONTS))
    account.report(subscription.customer, "25", at=START)
    account.advance(FIRST_END)
    account.report(subscription.customer, "6", at=FIRST_END - 1)
    account.advance(FIRST_END + HOUR)
    invoice = account.v1.invoices.list({"subscription": subscription.id}).data[0]
    assert [line.quantity for line in invoice.lines.data] == [5, 1]
    assert invoice.total == 4150


def test_tiers_are_shown_when_asked_for(account: Account) -> None:
    price = tiered_price(account, "volume", FONTS)
    assert [tier.up_to for tier in price.tiers] == [5, 10, None]
    assert (price.unit_amount, price.tiers_mode, price.billing_scheme) == (None, "volume", "tiered")
    assert "tiers" not in account.v1.prices.retrieve(price.id)
    assert "tiers" in account.v1.prices.retrieve(price.id, {"expand": ["tiers"]})
    assert "tiers" not in account.v1.prices.list().data[0]
    assert "tiers" not in account.subscribe(price)["items"].data[0].price


@pytest.mark.parametrize(
    "tiers",
    [
        [{"up_to": 5, "unit_amount": 1}],
        [{"up_to": 5, "unit_amount": 1}, {"up_to": 5, "unit_amount": 1}, {"up_to": "inf"}],
        [{"up_to": "inf", "unit_amount": 1, "unit_amount_decimal": "1"}],
        [{"up_to": "inf", "unit_amount": -1}],
    ],
)
def test_tiers_that_nobody_means_are_refused(account: Account, tiers: list[dict[str, Any]]) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        tiered_price(account, "graduated", tiers)


def test_search_lags_by_the_clock(account: Account) -> None:
    query = {"query": "metadata['attributionId']:'team:1'"}
    account.switch("search", lag_seconds=60)
    customer = account.v1.customers.create({"metadata": {"attributionId": "team:1"}})
    assert account.v1.customers.search(query).data == []
    assert account.v1.customers.list().data[0].id == customer.id
    account.advance(START + 59)
    assert account.v1.customers.search(query).data == []
    account.advance(START + 60)
    assert [found.id for found in account.v1.customers.search(query).data] == [customer.id]
