from typing import Any

import pytest
import requests

from tests.factories import DAY, HOUR, SYSTEM, team
from tests.faults.killing import Work, each_way
from tests.stripe_world.bench import Bench, at_once
from tests.stripe_world.fixtures import BEGIN
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.errors import DeclinedError, InvalidInputError
from usage_tasks.domain.holds import Hold, PaymentIntentId
from usage_tasks.services.payments.holds import ReleasedHolds, create_hold, release_due, use_hold

ACCOUNT = team("holds")


def hold(bench: Bench, account: AttributionId = ACCOUNT, **options: Any) -> Hold:
    at = options.pop("at", BEGIN)
    return create_hold(bench.transaction, bench.stripe, account, at=at, actor=SYSTEM)


def confirm(bench: Bench, made: Hold, card: str = "pm_card_visa") -> None:
    """Confirm a hold, as the payer does in their browser."""
    method = card
    if card == "pm_card_visa":  # with an address, as a form asks for one
        number = {"number": "4242424242424242", "exp_month": 1, "exp_year": 2040, "cvc": "123"}
        details = {"address": {"country": "DE", "city": "Berlin"}}
        asked = {"type": "card", "card": number, "billing_details": details}
        method = bench.world.v1.payment_methods.create(asked).id
    bench.world.v1.payment_intents.confirm(made.payment_intent_id, {"payment_method": method})


def use(bench: Bench, made: Hold, account: AttributionId = ACCOUNT) -> None:
    use_hold(bench.transaction, bench.stripe, account, made.payment_intent_id, at=BEGIN, actor=SYSTEM)


def intents(bench: Bench, account: AttributionId) -> list[Any]:
    customer = bench.rows("SELECT stripe_customer_id AS id FROM stripe_customer WHERE attribution_id = :a", a=account)
    return list(bench.world.v1.payment_intents.list({"customer": customer[0].id}).data)


def stored(bench: Bench, account: AttributionId) -> list[Any]:
    return bench.rows("SELECT * FROM payment_hold WHERE attribution_id = :a ORDER BY number", a=account)


def audited(bench: Bench, account: AttributionId) -> list[str]:
    found = bench.rows("SELECT action FROM audit WHERE attribution_id = :a ORDER BY audit_id", a=account)
    return [row.action for row in found if row.action.startswith("payment_hold.")]


def sweep(bench: Bench, hours: float = 2) -> ReleasedHolds:
    bench.execute("UPDATE payment_hold SET claimed_until = NULL")
    return release_due(bench.transaction, bench.stripe, at=BEGIN + hours * HOUR, limit=1000)


@pytest.mark.holds("stripe.hold")
def test_a_hold_is_1_00_in_the_customers_currency_to_be_confirmed_and_never_captured(bench: Bench) -> None:
    bench.customer(ACCOUNT, currency="eur")
    made = hold(bench)
    (intent,) = intents(bench, ACCOUNT)
    assert (intent.id, intent.amount, intent.currency) == (made.payment_intent_id, 100, "eur")
    assert (intent.capture_method, intent.setup_future_usage) == ("manual", "off_session")
    assert (made.status, made.client_secret) == ("requires_payment_method", intent.client_secret)
    assert made.client_secret not in repr(made)


def test_a_hold_asked_for_again_or_at_once_is_one_until_it_is_over(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    answers = at_once(*[lambda: hold(bench)] * 4)
    assert len({answer.payment_intent_id for answer in answers}) == 1
    bench.world.v1.payment_intents.cancel(answers[0].payment_intent_id)
    second = hold(bench)
    assert second.payment_intent_id != answers[0].payment_intent_id
    assert [row.released_at is not None for row in stored(bench, ACCOUNT)] == [True, False]
    assert audited(bench, ACCOUNT) == ["payment_hold.create", "payment_hold.release", "payment_hold.create"]


def test_an_account_without_a_customer_has_no_hold(bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match="attribution_id"):
        hold(bench)


@pytest.mark.holds("stripe.hold")
def test_a_confirmed_hold_gives_the_customer_its_card_and_address_and_is_released(bench: Bench) -> None:
    customer = bench.customer(ACCOUNT)
    made = hold(bench)
    confirm(bench, made)
    assert intents(bench, ACCOUNT)[0].status == "requires_capture"
    use(bench, made)
    use(bench, made)
    found = bench.world.v1.customers.retrieve(customer, {"expand": ["tax"]})
    assert (found.address.country, found.address.city, found.tax.automatic_tax) == ("DE", "Berlin", "supported")
    assert found.invoice_settings.default_payment_method == intents(bench, ACCOUNT)[0].payment_method
    assert (intents(bench, ACCOUNT)[0].status, intents(bench, ACCOUNT)[0].amount_received) == ("canceled", 0)
    assert audited(bench, ACCOUNT) == ["payment_hold.create", "payment_hold.confirm", "payment_hold.release"]


@pytest.mark.holds("stripe.hold-unconfirmed")
def test_a_hold_that_was_not_confirmed_is_refused_and_a_bank_that_says_no_is_told_apart(bench: Bench) -> None:
    customer = bench.customer(ACCOUNT)
    made = hold(bench)
    with pytest.raises(InvalidInputError, match="requires_payment_method"):
        use(bench, made)
    with pytest.raises(Exception, match="declined"):
        confirm(bench, made, "pm_card_visa_chargeDeclinedInsufficientFunds")
    with pytest.raises(DeclinedError) as declined:
        use(bench, made)
    assert declined.value.decline_code == "insufficient_funds"
    confirm(bench, made, "pm_card_authenticationRequired")
    with pytest.raises(InvalidInputError, match="requires_action"):
        use(bench, made)
    assert bench.world.v1.customers.retrieve(customer).invoice_settings.default_payment_method is None
    route = f"{bench.world.url}/_simulator/payments/authenticate"
    assert requests.post(route, json={"payment_intent": made.payment_intent_id}, timeout=5).status_code == 200
    use(bench, made)
    assert intents(bench, ACCOUNT)[0].status == "canceled"


def test_a_hold_of_another_account_is_refused(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    bench.customer(team("other"))
    made = hold(bench)
    confirm(bench, made)
    for intent in (made.payment_intent_id, PaymentIntentId("pi_nobody")):
        with pytest.raises(InvalidInputError, match="hold_payment_intent_id"):
            use_hold(bench.transaction, bench.stripe, team("other"), intent, at=BEGIN, actor=SYSTEM)


@pytest.mark.holds("stripe.hold")
def test_the_sweep_lets_go_after_an_hour_and_not_before(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    made = hold(bench)
    confirm(bench, made)
    assert sweep(bench, 0.9) == ReleasedHolds(released=0, retried=0, failed=0)
    hold(bench, at=BEGIN + HOUR / 2)  # asked for again: the payer is still there
    assert sweep(bench, 1.1) == ReleasedHolds(released=0, retried=0, failed=0)
    assert sweep(bench, 1.5) == ReleasedHolds(released=1, retried=0, failed=0)
    assert intents(bench, ACCOUNT)[0].status == "canceled"
    with pytest.raises(InvalidInputError, match="canceled"):
        use(bench, made)


def test_a_hold_that_stripe_let_go_or_forgot_is_released(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    confirm(bench, hold(bench))
    bench.world.advance(BEGIN + 8 * DAY)
    bench.customer(team("other"))
    hold(bench, team("other"))
    bench.execute(
        "UPDATE payment_hold SET stripe_payment_intent_id = 'pi_x' WHERE attribution_id = :a", a=team("other")
    )
    assert sweep(bench) == ReleasedHolds(released=2, retried=0, failed=0)


def test_sweeps_at_once_let_go_of_each_hold_once(bench: Bench) -> None:
    accounts = [team(f"swept {number}") for number in range(6)]
    for account in accounts:
        bench.customer(account)
        confirm(bench, hold(bench, account))
    due = BEGIN + 2 * HOUR
    answers = at_once(*[lambda: release_due(bench.transaction, bench.stripe, at=due, limit=100)] * 3)
    assert sum(answer.released for answer in answers) == 6
    assert bench.rows("SELECT count(*) AS n FROM audit WHERE action = 'payment_hold.release'")[0].n == 6


# Killed at each step


def account_of(name: str, number: int) -> AttributionId:
    return team(f"{name} {number}")


@pytest.mark.holds("stripe.hold", "lesson.retried-post")
def test_asking_for_a_hold_killed_anywhere_is_one_hold_and_nothing_is_left_held(bench: Bench) -> None:
    def begin(number: int) -> Work:
        account = account_of("asking", number)
        bench.customer(account)
        return lambda transaction, stripe: create_hold(transaction, stripe, account, at=BEGIN, actor=SYSTEM)

    for count, number in enumerate(each_way(bench, begin)):
        account = account_of("asking", number)
        if count % 2:  # nobody asks again: the sweep finds it
            sweep(bench)
            assert [intent.status for intent in intents(bench, account)] in ([], ["canceled"])
            assert all(row.released_at is not None for row in stored(bench, account))
            continue
        made = hold(bench, account)
        assert [intent.id for intent in intents(bench, account)] == [made.payment_intent_id]
        assert [row.stripe_payment_intent_id for row in stored(bench, account)] == [made.payment_intent_id]
        assert audited(bench, account) == ["payment_hold.create"]


@pytest.mark.holds("stripe.hold")
def test_using_a_hold_killed_anywhere_leaves_nothing_held_once_the_sweep_was_there(bench: Bench) -> None:
    def begin(number: int) -> Work:
        account = account_of("left", number)
        bench.customer(account)
        made = hold(bench, account)
        confirm(bench, made)
        return lambda transaction, stripe: use_hold(
            transaction, stripe, account, made.payment_intent_id, at=BEGIN, actor=SYSTEM
        )

    for number in each_way(bench, begin):
        sweep(bench)
        assert [intent.status for intent in intents(bench, account_of("left", number))] == ["canceled"]
