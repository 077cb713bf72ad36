"""We lost Stripe's answer, or the key is of no more use: Stripe's own objects are looked up, at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest

from tests.factories import HOUR, SYSTEM, make_id, team
from tests.stripe_world.bench import Bench, CrashError, Wrapped, crash
from tests.stripe_world.fixtures import BEGIN
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError, PermanentError, RetryableError, SpentKeyError
from usage_tasks.domain.payments import StripeCustomerId
from usage_tasks.services.payments.holds import create_hold, release_due
from usage_tasks.services.payments.operator_actions import finalize_invoice
from usage_tasks.storage.payments.customers import find_account

ACCOUNT = team("unheard")


def stored(bench: Bench) -> str | None:
    (row,) = bench.rows("SELECT stripe_customer_id AS id FROM stripe_customer WHERE attribution_id = :a", a=ACCOUNT)
    return None if row.id is None else str(row.id)


@contextmanager
def unheard() -> Iterator[None]:
    with pytest.raises(CrashError):
        yield


def lose_customer(bench: Bench) -> str:
    """Make a customer and die before it is stored; return its id."""
    before = {one.id for one in bench.world.customers()}
    with unheard():
        bench.customer(ACCOUNT, stripe=Wrapped(bench.stripe, after=crash, only="create_"))
    (made,) = {one.id for one in bench.world.customers()} - before
    return str(made)


def lose_subscription(bench: Bench, **options: Any) -> str:
    with unheard():
        bench.subscription(ACCOUNT, stripe=Wrapped(bench.stripe, after=crash, only="create_"), **options)
    return str(bench.world.subscriptions()[0].id)


def failing(bench: Bench, kind: str, path: str) -> None:
    bench.world.switch("faults", kind=kind, path=path, method="POST", count=1)


def insist(bench: Bench, work: Callable[[], Any], *, attempts: int = 4) -> Any:
    """Retry as a task does: call again after a RetryableError, and half a minute where the wait is asked for."""
    for _ in range(attempts - 1):
        try:
            return work()
        except RetryableError:
            pass_half_a_minute(bench)
    return work()


def pass_half_a_minute(bench: Bench) -> None:
    """After it no call with an earlier key can run."""
    for table in ("stripe_customer", "stripe_subscription"):
        bench.execute(f"UPDATE {table} SET renewed_at = renewed_at - interval '30 seconds'")  # noqa: S608 - a table's name


# Customers


@pytest.mark.holds("stripe.lost-answer")
@pytest.mark.parametrize("lag", [0, 3600])
def test_a_customer_asked_for_again_with_another_email_is_the_one_that_was_made(bench: Bench, lag: int) -> None:
    made = lose_customer(bench)
    bench.world.switch("search", lag_seconds=lag)
    assert bench.customer(ACCOUNT, email="somebody.else@example.com") == made
    assert [one.id for one in bench.world.customers()] == [made]
    assert [row.action for row in bench.rows("SELECT action FROM audit")] == ["stripe_customer.create"]


@pytest.mark.holds("stripe.lost-answer")
def test_a_customer_deleted_before_its_answer_was_stored_is_never_stored(bench: Bench) -> None:
    gone = lose_customer(bench)
    bench.world.v1.customers.delete(gone)
    bench.receive(types="customer.")
    bench.apply(BEGIN)  # the event comes while nobody knows the customer's account
    made = bench.customer(ACCOUNT)
    assert made != gone
    assert bench.subscription(ACCOUNT)
    assert [one.id for one in bench.world.customers()] == [made]


@pytest.mark.parametrize("email", ["someone@example.com", "somebody.else@example.com"])
def test_a_deleted_customer_asked_for_again_with_any_email_is_a_new_one(bench: Bench, email: str) -> None:
    gone = lose_customer(bench)
    bench.world.v1.customers.delete(gone)
    made = insist(bench, lambda: bench.customer(ACCOUNT, email=email))
    assert made != gone
    assert [one.id for one in bench.world.customers()] == [made]
    assert stored(bench) == made


def test_a_spent_key_is_followed_by_a_fresh_one_only_once_no_call_can_run(bench: Bench) -> None:
    bench.world.v1.customers.delete(lose_customer(bench))
    with pytest.raises(RetryableError, match="used before, with other arguments") as early:
        bench.customer(ACCOUNT, email="somebody.else@example.com")
    assert early.value.retry_after is not None
    assert early.value.retry_after >= timedelta(seconds=10)
    assert bench.world.customers() == []


@pytest.mark.holds("stripe.lost-answer")
def test_another_request_uses_no_fresh_key_of_a_customer_either_before_no_call_can_run(bench: Bench) -> None:
    bench.world.v1.customers.delete(lose_customer(bench))
    for _ in range(2):  # the first stores a fresh key
        with pytest.raises(RetryableError) as early:
            bench.customer(ACCOUNT, email="somebody.else@example.com")
        assert early.value.retry_after == timedelta(seconds=30)
    assert bench.world.customers() == []
    pass_half_a_minute(bench)
    made = bench.customer(ACCOUNT, email="somebody.else@example.com")
    assert [one.id for one in bench.world.customers()] == [made]


@pytest.mark.parametrize("kind", ["error_kept", "error_kept_after"])
def test_an_error_that_stripe_stored_does_not_hold_a_customer_up(bench: Bench, kind: str) -> None:
    failing(bench, kind, "/v1/customers")
    with pytest.raises(RetryableError):
        bench.customer(ACCOUNT)
    made = bench.customer(ACCOUNT)
    assert [one.id for one in bench.world.customers()] == [made]


def test_a_key_in_use_is_waited_for(bench: Bench) -> None:
    failing(bench, "key_in_use", "/v1/customers")
    with pytest.raises(RetryableError, match="idempotency_key_in_use"):
        bench.customer(ACCOUNT)
    assert bench.customer(ACCOUNT) == stored(bench)


def test_two_customers_that_say_the_same_account_are_a_persons_to_settle(bench: Bench) -> None:
    made = lose_customer(bench)
    known = {"attributionId": ACCOUNT, "preferredCurrency": "usd", "billingCreatorUserId": str(make_id("creator"))}
    twin = bench.world.v1.customers.create({"metadata": known}).id
    with pytest.raises(PermanentError, match="must be at most one in Stripe") as refused:
        bench.customer(ACCOUNT)
    assert made in str(refused.value)
    assert twin in str(refused.value)


def test_a_customer_in_the_place_of_a_deleted_one_may_pay_in_another_currency(bench: Bench) -> None:
    gone = bench.customer(ACCOUNT, currency="usd")
    bench.world.v1.customers.delete(gone)
    bench.receive(types="customer.")
    bench.apply(BEGIN)
    made = bench.customer(ACCOUNT, currency="eur")
    assert made != gone
    with bench.transaction() as connection:
        assert find_account(connection, StripeCustomerId(made)) == ACCOUNT
    bench.subscription(ACCOUNT)
    assert bench.world.subscriptions()[0].currency == "eur"


# Subscriptions


@pytest.mark.holds("stripe.lost-answer")
def test_a_subscription_asked_for_again_is_the_one_that_was_made(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    made = lose_subscription(bench)
    bench.execute("UPDATE stripe_subscription SET created_at = created_at - interval '2 days'")
    bench.world.advance(BEGIN + timedelta(days=2))  # the key is forgotten
    assert bench.subscription(ACCOUNT) == made
    assert [one.id for one in bench.world.subscriptions()] == [made]


def test_a_subscription_that_ended_before_its_answer_was_stored_is_not_stored(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    gone = lose_subscription(bench)
    bench.world.v1.subscriptions.cancel(gone)
    made = bench.subscription(ACCOUNT)
    assert made != gone
    live = [one.id for one in bench.world.subscriptions() if one.ended_at is None]
    assert live == [made]
    assert bench.rows("SELECT stripe_subscription_id AS id FROM stripe_subscription")[0].id == made


@pytest.mark.parametrize("kind", ["error_kept", "error_kept_after"])
def test_an_error_that_stripe_stored_does_not_hold_a_subscription_up(bench: Bench, kind: str) -> None:
    bench.customer(ACCOUNT)
    failing(bench, kind, "/v1/subscriptions")
    with pytest.raises(RetryableError):
        bench.subscription(ACCOUNT)
    made = bench.subscription(ACCOUNT)
    assert [one.id for one in bench.world.subscriptions()] == [made]


def test_a_subscription_of_a_customer_that_was_replaced_is_asked_for_anew(bench: Bench) -> None:
    gone = bench.customer(ACCOUNT)
    lose_subscription(bench)
    bench.world.v1.customers.delete(gone)
    bench.receive(types="customer.deleted")
    bench.apply(BEGIN)
    made = bench.customer(ACCOUNT)
    insist(bench, lambda: bench.subscription(ACCOUNT))
    live = [one for one in bench.world.subscriptions() if one.ended_at is None]
    assert [one.customer for one in live] == [made]


def other_price(bench: Bench) -> str:
    """Make another price in Stripe, as after a change of the configuration; return its id."""
    held = bench.world.v1.prices.retrieve(bench.world.price_by_currency["usd"])
    recurring = {"interval": "month", "usage_type": "metered", "meter": bench.world.meter_id}
    asked = {"currency": "usd", "unit_amount": 2, "product": held.product, "recurring": recurring}
    return str(bench.world.v1.prices.create(asked).id)


@pytest.mark.holds("stripe.lost-answer")
def test_a_worker_that_was_overtaken_asks_for_no_second_subscription(bench: Bench) -> None:
    """It pauses before its call. Another worker, with other prices, replaces its key and calls with the new one."""
    bench.customer(ACCOUNT)
    prices, made = {"usd": other_price(bench)}, []

    def overtake() -> None:
        made.append(insist(bench, lambda: bench.subscription(ACCOUNT, prices=prices)))

    found = bench.subscription(ACCOUNT, stripe=Wrapped(bench.stripe, before=overtake, only="get_customer"))
    assert [found] == made
    assert [one.id for one in bench.world.subscriptions()] == made


def overtaking(bench: Bench, prices: dict[str, str], *, requests: int = 1) -> Callable[[], None]:
    """Let requests with other prices come while a call is running; none of them may make a subscription."""

    def overtake() -> None:
        for _ in range(requests):
            with pytest.raises(RetryableError) as early:
                bench.subscription(ACCOUNT, prices=prices)
            assert early.value.retry_after == timedelta(seconds=30)
            assert bench.world.subscriptions() == []

    return overtake


@pytest.mark.holds("stripe.lost-answer")
def test_a_subscription_of_a_price_that_was_replaced_during_its_call_is_found(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    prices = {"usd": other_price(bench)}
    with unheard():
        stripe = Wrapped(bench.stripe, before=overtaking(bench, prices), after=crash, only="create_")
        bench.subscription(ACCOUNT, stripe=stripe)
    (made,) = [one.id for one in bench.world.subscriptions()]
    assert insist(bench, lambda: bench.subscription(ACCOUNT, prices=prices)) == made
    assert [one.id for one in bench.world.subscriptions()] == [made]


@pytest.mark.holds("stripe.lost-answer")
def test_a_fresh_key_of_a_subscription_is_used_by_nobody_before_no_call_can_run(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    prices = {"usd": other_price(bench)}
    overtake = overtaking(bench, prices, requests=3)
    made = bench.subscription(ACCOUNT, stripe=Wrapped(bench.stripe, before=overtake, only="create_"))
    assert bench.subscription(ACCOUNT, prices=prices) == made
    assert [one.id for one in bench.world.subscriptions()] == [made]


def test_prices_of_two_configurations_that_take_turns_are_all_searched(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    first, second, third = bench.world.price_by_currency, {"usd": other_price(bench)}, {"usd": other_price(bench)}

    def overtake() -> None:
        for prices in (second, third, first, third):
            with pytest.raises(RetryableError):
                bench.subscription(ACCOUNT, prices=prices)
            pass_half_a_minute(bench)

    with unheard():
        bench.subscription(ACCOUNT, stripe=Wrapped(bench.stripe, before=overtake, after=crash, only="create_"))
    (made,) = [one.id for one in bench.world.subscriptions()]
    assert bench.subscription(ACCOUNT, prices=third) == made
    (row,) = bench.rows("SELECT earlier_price_ids AS ids FROM stripe_subscription")
    assert set(row.ids) == {first["usd"], second["usd"], third["usd"]}


def test_an_invoice_counts_the_credits_of_the_price_that_a_subscription_was_made_with(bench: Bench) -> None:
    """The configured price has changed, and the row was renewed for it, before the answer came."""
    bench.customer(ACCOUNT)
    prices = {"usd": other_price(bench)}
    bench.subscription(ACCOUNT, stripe=Wrapped(bench.stripe, before=overtaking(bench, prices), only="create_"))
    bench.receive_and_apply(BEGIN)
    bench.use(ACCOUNT, 7, until=BEGIN + HOUR)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    end = add_months(BEGIN, 1)
    bench.world.advance(end + 2 * HOUR)
    bench.receive()
    bench.apply(end + 2 * HOUR, our_prices=frozenset(prices.values()))
    assert bench.invoice_entries(ACCOUNT) == [-700]
    (row,) = bench.rows("SELECT price_id FROM stripe_subscription")
    assert row.price_id == bench.world.price_by_currency["usd"]


def test_the_event_of_a_subscription_of_a_price_that_was_replaced_stores_it(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    prices = {"usd": other_price(bench)}
    with unheard():
        stripe = Wrapped(bench.stripe, before=overtaking(bench, prices), after=crash, only="create_")
        bench.subscription(ACCOUNT, stripe=stripe)
    (made,) = [one.id for one in bench.world.subscriptions()]
    bench.execute("UPDATE stripe_subscription SET created_at = created_at - interval '2 days'")
    bench.receive(types="customer.subscription")
    bench.apply(BEGIN)
    (row,) = bench.rows("SELECT stripe_subscription_id AS id, price_id FROM stripe_subscription")
    assert (row.id, row.price_id) == (made, bench.world.price_by_currency["usd"])


RENEWED_BY_0021 = """
    UPDATE stripe_subscription SET idempotency_key = idempotency_key || ':again:2', price_id = :price,
        automatic_tax = NULL
"""


@pytest.mark.holds("stripe.lost-answer")
def test_a_row_that_a_worker_of_an_earlier_version_renewed_is_searched_and_waited_for_too(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    prices = {"usd": other_price(bench)}

    def overtake() -> None:
        bench.execute(RENEWED_BY_0021, price=prices["usd"])
        overtaking(bench, prices)()

    with unheard():
        bench.subscription(ACCOUNT, stripe=Wrapped(bench.stripe, before=overtake, after=crash, only="create_"))
    (made,) = [one.id for one in bench.world.subscriptions()]
    assert bench.subscription(ACCOUNT, prices=prices) == made
    assert [one.id for one in bench.world.subscriptions()] == [made]


@pytest.mark.holds("stripe.lost-answer")
def test_after_a_refusal_no_request_has_a_fresh_key_while_another_worker_may_call_with_the_spent_one(
    bench: Bench,
) -> None:
    """Two calls with one key: the first is refused, the second begins when Stripe takes the terms again."""
    customer = bench.customer(ACCOUNT)
    bench.world.v1.customers.update(customer, {"address": {"country": "DE"}})
    made: list[str] = []

    def moves() -> None:
        bench.world.v1.customers.update(customer, {"address": ""})

    def refused() -> None:
        with pytest.raises(PermanentError, match="customer_tax_location_invalid"):
            bench.subscription(ACCOUNT, stripe=Wrapped(bench.stripe, before=moves, only="create_"))
        bench.world.v1.customers.update(customer, {"address": {"country": "DE"}})
        with pytest.raises(RetryableError):
            made.append(bench.subscription(ACCOUNT))

    with suppress(SpentKeyError, RetryableError):  # Stripe may have stored the refusal
        bench.subscription(ACCOUNT, stripe=Wrapped(bench.stripe, before=refused, only="create_"))
    insist(bench, lambda: bench.subscription(ACCOUNT))
    assert made == []
    assert len(bench.world.subscriptions()) == 1


def test_a_price_that_stripe_takes_no_more_is_replaced_by_the_one_that_is_configured(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    old = bench.world.price_by_currency["usd"]
    with bench.world.server.simulator.world() as world:
        world.store.put({**world.get("price", old), "active": False})
    with pytest.raises(PermanentError, match="active"):
        bench.subscription(ACCOUNT)
    new = other_price(bench)
    insist(bench, lambda: bench.subscription(ACCOUNT, prices={"usd": new}))
    (made,) = bench.world.subscriptions()
    assert made.items.data[0].price.id == new


def test_what_stripe_refused_is_asked_again_on_the_terms_that_hold_then(bench: Bench) -> None:
    """The customer can be taxed at the look, and moves away before the subscription is made."""
    customer = bench.customer(ACCOUNT)
    bench.world.v1.customers.update(customer, {"address": {"country": "DE"}})

    def moves() -> None:
        bench.world.v1.customers.update(customer, {"address": ""})

    with pytest.raises(PermanentError, match="customer_tax_location_invalid"):
        bench.subscription(ACCOUNT, stripe=Wrapped(bench.stripe, before=moves, only="create_"))
    assert insist(bench, lambda: bench.subscription(ACCOUNT))
    assert bench.world.subscriptions()[0].automatic_tax.enabled is False


def test_a_customer_that_stripe_bills_in_another_currency_is_refused_with_the_way_out(bench: Bench) -> None:
    customer = bench.customer(ACCOUNT, currency="usd")
    price = bench.world.price_by_currency["eur"]
    by_hand = bench.world.v1.subscriptions.create({"customer": customer, "items": [{"price": price}]})
    with pytest.raises(InvalidInputError, match=r"`currency`: .* \(got 'usd'\)") as refused:
        bench.subscription(ACCOUNT)
    for word in (customer, "eur", "end everything that it has in that currency"):
        assert word in str(refused.value)
    bench.world.v1.subscriptions.cancel(by_hand.id)
    made = insist(bench, lambda: bench.subscription(ACCOUNT))
    assert [one.id for one in bench.world.subscriptions() if one.ended_at is None] == [made]


# Holds


def hold(bench: Bench) -> Any:
    return create_hold(bench.transaction, bench.stripe, ACCOUNT, at=BEGIN, actor=SYSTEM)


def lose_hold(bench: Bench) -> str:
    with unheard():
        stripe = Wrapped(bench.stripe, after=crash, only="create_hold")
        create_hold(bench.transaction, stripe, ACCOUNT, at=BEGIN, actor=SYSTEM)
    return str(bench.world.v1.payment_intents.list({}).data[0].id)


@pytest.mark.holds("stripe.lost-answer")
def test_a_hold_that_is_over_before_its_answer_was_stored_is_asked_for_anew(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    over = lose_hold(bench)
    bench.world.v1.payment_intents.cancel(over)
    made = hold(bench)
    assert made.payment_intent_id != over
    assert made.status == "requires_payment_method"


def test_a_hold_of_a_customer_that_was_replaced_is_asked_for_anew(bench: Bench) -> None:
    gone = bench.customer(ACCOUNT)
    lose_hold(bench)
    bench.world.v1.customers.delete(gone)
    bench.receive(types="customer.deleted")
    bench.apply(BEGIN)
    made = bench.customer(ACCOUNT)
    assert hold(bench).customer_id == made


@pytest.mark.parametrize("swept", [False, True])
def test_an_error_that_stripe_stored_does_not_hold_a_hold_up(bench: Bench, *, swept: bool) -> None:
    bench.customer(ACCOUNT)
    failing(bench, "error_kept", "/v1/payment_intents")
    with pytest.raises(RetryableError):
        hold(bench)
    if swept:
        done = release_due(bench.transaction, bench.stripe, at=BEGIN + 2 * HOUR, limit=10)
        assert (done.released, done.failed) == (1, 0)
    assert hold(bench).status == "requires_payment_method"


def test_a_hold_is_refused_to_an_account_whose_customer_is_gone(bench: Bench) -> None:
    gone = bench.customer(ACCOUNT)
    bench.world.v1.customers.delete(gone)
    bench.receive(types="customer.deleted")
    bench.apply(BEGIN)
    with pytest.raises(InvalidInputError, match="attribution_id"):
        hold(bench)


# Invoices and meter events


def test_an_error_that_stripe_stored_does_not_hold_up_an_invoice(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 7, until=BEGIN + HOUR)
    end = BEGIN.replace(month=2, day=28)
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.advance(end)
    draft = next(one.id for one in bench.world.invoices() if one.status == "draft")
    failing(bench, "error_kept", f"/v1/invoices/{draft}/finalize")

    def finalize() -> Any:
        return finalize_invoice(bench.context(end), ACCOUNT, draft, actor=SYSTEM)

    insist(bench, finalize)
    assert next(one for one in bench.world.invoices() if one.id == draft).status != "draft"


def test_an_error_that_stripe_stored_does_not_hold_up_a_report(bench: Bench) -> None:
    customer = bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 7, until=BEGIN + HOUR)
    failing(bench, "error_kept", "/v1/billing/meter_events")
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.execute("UPDATE meter_report SET next_attempt_at = clock_timestamp(), claimed_until = NULL")
    bench.send()
    assert [value for _, value in bench.world.meter_events(customer)] == [7]


def test_an_error_that_comes_later_names_the_report_whatever_key_it_went_with(bench: Bench) -> None:
    customer = bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 7, until=BEGIN + HOUR)
    failing(bench, "error_kept", "/v1/billing/meter_events")
    bench.sync_and_send(BEGIN + 2 * HOUR)
    bench.world.switch("meters", reject={customer: "archived_meter"})
    bench.execute("UPDATE meter_report SET next_attempt_at = clock_timestamp(), claimed_until = NULL")
    bench.send()
    (event,) = bench.world.thin_events()
    (problem,) = bench.stripe.get_meter_errors(event).errors
    (report,) = bench.rows(
        "SELECT identifier FROM meter_report WHERE identifier = ANY(:ids)", ids=[*problem.identifiers]
    )
    assert report.identifier in problem.identifiers
