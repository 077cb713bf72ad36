"""Each currency with a price in the settings: its customers, holds, subscriptions and invoices."""

from typing import Any

import pytest

from tests.factories import HOUR, SYSTEM, call, make_id, team
from tests.stripe_world.bench import Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.world import GRACE
from usage_tasks.domain.currencies import known_currencies
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.services.payments.holds import create_hold
from usage_tasks.tasks.billing import customers, payments

CONFIGURED = ("jpy", "kwd", "ugx", "inr", "huf")


def price_in(world: Any, currency: str) -> str:
    recurring = {"interval": "month", "usage_type": "metered", "meter": world.meter_id}
    asked = {"currency": currency, "unit_amount": 300, "product_data": {"name": "Usage"}, "recurring": recurring}
    return str(world.v1.prices.create(asked).id)


@pytest.mark.holds("stripe.hold")
def test_a_hold_is_an_amount_that_stripe_takes_in_any_currency(bench: Bench) -> None:
    for currency in sorted(known_currencies()):
        account = team(currency)
        bench.customer(account, currency=currency)
        made = create_hold(bench.transaction, bench.stripe, account, at=BEGIN, actor=SYSTEM)
        found = bench.world.v1.payment_intents.retrieve(made.payment_intent_id)
        assert (found.currency, found.status) == (currency, "requires_payment_method")


@pytest.mark.parametrize(("currency", "total"), [("jpy", 13 * 300), ("kwd", 13 * 300), ("ugx", 13 * 300)])
def test_an_invoice_is_booked_in_credits_whatever_its_currency_counts(bench: Bench, currency: str, total: int) -> None:
    account, price = team(currency), price_in(bench.world, currency)
    prices = {currency: price}
    customer = bench.customer(account, currency=currency)
    bench.subscription(account, prices=prices)
    bench.use(account, "12.35", until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    end = add_months(BEGIN, 1) + GRACE
    bench.world.advance(end)
    bench.receive()
    bench.apply(end, our_prices=frozenset({price}))
    invoice = bench.world.invoices(customer)[-1]
    assert (invoice.currency, invoice.total) == (currency, total)
    (row,) = bench.rows("SELECT currency, total, credit_cents FROM stripe_invoice WHERE total > 0")
    assert (row.currency, row.total, row.credit_cents) == (currency, total, 1300)


@pytest.fixture
def environment(environment: dict[str, str], world: Any) -> dict[str, str]:
    """An installation with prices for teams in more currencies than two, and none in euros."""
    prices = ", ".join(f'"{currency}": "{price_in(world, currency)}"' for currency in CONFIGURED)
    return environment | {"USAGE_STRIPE_PRICES": f'{{"teamUsagePriceIds": {{{prices}}}}}'}


@pytest.mark.parametrize("currency", CONFIGURED)
def test_the_tasks_take_every_currency_that_has_a_price(rt: Runtime, currency: str) -> None:
    account = {"attribution_id": team(currency), "actor": "service:tests", "at": BEGIN.isoformat()}
    new = {"email": "a@b", "name": "A", "currency": currency, "billing_creator_user_id": str(make_id("creator"))}
    call(customers.create_stripe_customer, **account, **new)
    assert call(payments.create_hold_payment_intent, **account)["payment_intent_id"].startswith("pi_")
    assert call(customers.create_stripe_subscription, **account)["stripe_subscription_id"].startswith("sub_")
    asked = {name: value for name, value in account.items() if name != "at"}
    assert call(customers.get_price_information, **asked)["currency"] == currency


def test_a_currency_without_a_price_is_refused_before_anything_is_made(rt: Runtime, bench: Bench) -> None:
    account = {"attribution_id": team(), "actor": "service:tests", "at": BEGIN.isoformat()}
    new = {"email": "a@b", "name": "A", "billing_creator_user_id": str(make_id("creator"))}
    with pytest.raises(InvalidInputError, match=r"`currency`: must be .*jpy.*kwd.* \(got 'sek'\)"):
        call(customers.create_stripe_customer, **account, **new, currency="sek")
    assert bench.world.customers() == []
