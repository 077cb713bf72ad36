from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import requests

from tests.factories import HOUR, SYSTEM, make_id, team
from tests.stripe_world.bench import Bench, CrashError, Wrapped, crash
from tests.stripe_world.fixtures import BEGIN
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError, PermanentError
from usage_tasks.services.payments.customers import (
    TaxUpdate,
    get_customer,
    get_price_information,
    preview_invoice,
    update_tax_state,
)

ACCOUNT = team("payer")
GERMANY = {"country": "DE"}


def customer_of(bench: Bench, account: AttributionId = ACCOUNT) -> Any:
    return get_customer(bench.transaction, bench.stripe, account, at=BEGIN, actor=SYSTEM)


def in_stripe(bench: Bench, account: AttributionId = ACCOUNT, **metadata: str) -> str:
    """A customer that only Stripe knows."""
    known = {"attributionId": account, "preferredCurrency": "eur", "billingCreatorUserId": str(make_id("creator"))}
    return str(bench.world.v1.customers.create({"metadata": known | metadata}).id)


def taxed(bench: Bench, account: AttributionId = ACCOUNT) -> list[bool]:
    customer = bench.rows("SELECT stripe_customer_id AS id FROM stripe_customer WHERE attribution_id = :a", a=account)
    listed = bench.world.v1.subscriptions.list({"customer": customer[0].id}).data
    return [subscription.automatic_tax.enabled for subscription in listed]


def update(bench: Bench, account: AttributionId = ACCOUNT) -> TaxUpdate:
    return update_tax_state(bench.transaction, bench.stripe, account, at=BEGIN, actor=SYSTEM)


# Customers


@pytest.mark.holds("lesson.late-search")
def test_a_customer_is_found_by_the_id_that_is_stored_however_late_the_search_is(bench: Bench) -> None:
    made = bench.customer(ACCOUNT)
    requests.post(f"{bench.world.url}/_simulator/search", json={"lag_seconds": 3600}, timeout=5)
    found = customer_of(bench)
    assert (found.customer_id, found.attribution_id, found.preferred_currency) == (made, ACCOUNT, "usd")
    assert (found.tax_state, found.has_payment_method, found.subscriptions) == ("unrecognized_location", False, ())


@pytest.mark.holds("stripe.find-customer", "lesson.late-search")
def test_a_customer_that_only_stripe_knows_is_found_by_search_and_stored(bench: Bench) -> None:
    made = in_stripe(bench)
    assert customer_of(bench).customer_id == made
    (row,) = bench.rows("SELECT * FROM stripe_customer")
    assert (row.attribution_id, row.stripe_customer_id, row.currency) == (ACCOUNT, made, "eur")
    assert customer_of(bench).customer_id == made
    assert [row.action for row in bench.rows("SELECT action FROM audit")] == ["stripe_customer.adopt"]


@pytest.mark.holds("stripe.find-customer")
def test_a_customer_that_nobody_knows_or_that_is_not_clear_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match="attribution_id"):
        customer_of(bench)
    in_stripe(bench, preferredCurrency="zzz")
    with pytest.raises(PermanentError, match=r"`currency`: must be a currency of Stripe.* \(got 'zzz'\)"):
        customer_of(bench)
    in_stripe(bench)
    with pytest.raises(PermanentError, match="must be at most one in Stripe"):
        customer_of(bench)
    assert bench.rows("SELECT * FROM stripe_customer") == []


def test_a_customer_whose_answer_was_lost_for_longer_than_stripe_remembers_is_still_one(bench: Bench) -> None:
    with pytest.raises(CrashError):
        bench.customer(ACCOUNT, stripe=Wrapped(bench.stripe, after=crash))
    bench.execute("UPDATE stripe_customer SET created_at = created_at - interval '2 days'")
    bench.world.advance(BEGIN + timedelta(days=2))  # the key is forgotten
    bench.customer(ACCOUNT)
    assert len(bench.world.customers()) == 1


# Tax


@pytest.mark.holds("stripe.tax")
def test_a_subscription_tells_tax_where_the_customer_can_be_placed(bench: Bench) -> None:
    customer = bench.customer(ACCOUNT)
    bench.world.v1.customers.update(customer, {"address": GERMANY})
    bench.subscription(ACCOUNT)
    assert taxed(bench) == [True]
    assert update(bench) == TaxUpdate(tax_state="supported", automatic_tax=True, updated=0)
    bench.world.v1.customers.update(customer, {"address": ""})
    assert update(bench) == TaxUpdate(tax_state="unrecognized_location", automatic_tax=False, updated=1)
    assert taxed(bench) == [False]
    assert len(bench.rows("SELECT 1 FROM audit WHERE action = 'stripe_subscription.automatic_tax'")) == 1


@pytest.mark.holds("stripe.tax")
def test_a_subscription_asked_for_again_after_its_customer_moved_is_still_one(bench: Bench) -> None:
    customer = bench.customer(ACCOUNT)
    stripe = Wrapped(bench.stripe, after=crash, only="create_")
    with pytest.raises(CrashError):
        bench.subscription(ACCOUNT, stripe=stripe)
    bench.world.v1.customers.update(customer, {"address": GERMANY})
    bench.subscription(ACCOUNT)
    assert len(bench.world.subscriptions()) == 1


# Prices and the next invoice


def test_the_price_is_that_of_the_customers_currency_and_an_unknown_currency_is_refused(bench: Bench) -> None:
    prices = bench.world.price_by_currency

    def ask(currency: str | None, offered: dict[str, str] = prices) -> Any:
        return get_price_information(
            bench.transaction, bench.stripe, ACCOUNT, price_by_currency=offered, currency=currency
        )

    assert (ask("usd").price_id, ask("usd").unit_amount) == (prices["usd"], Decimal("1.5"))
    for currency in (None, "gbp"):
        with pytest.raises(InvalidInputError, match="currency"):
            ask(currency)
    bench.customer(ACCOUNT, currency="eur")
    assert (ask("usd").price_id, ask(None).currency) == (prices["eur"], "eur")
    with pytest.raises(InvalidInputError, match=r"`currency`: .* \(got 'eur'\)"):
        ask(None, {"usd": prices["usd"]})
    with pytest.raises(PermanentError, match="is in 'usd' at Stripe"):
        ask(None, {"eur": prices["usd"]})


def test_a_preview_says_what_stripe_would_bill_by_now(bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match="open subscription"):
        preview_invoice(bench.transaction, bench.stripe, ACCOUNT, our_prices=bench.world.our_prices)
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 40, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    told = preview_invoice(bench.transaction, bench.stripe, ACCOUNT, our_prices=bench.world.our_prices)
    assert (told.total, told.credits, told.currency) == (60, Decimal(40), "usd")
    assert (told.period_start, told.period_end) == (BEGIN, add_months(BEGIN, 1))
    assert bench.invoice_entries(ACCOUNT) == []
