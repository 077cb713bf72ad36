from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from tests.factories import HOUR, LIMITS, SYSTEM, team, user
from tests.stripe_world.bench import Bench, CrashError, at_once, crashing
from tests.stripe_world.fixtures import BEGIN
from usage_tasks.domain.accounts import parse_attribution
from usage_tasks.domain.cost_centers import BillingStrategy, SpendingLimits
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.services.ledger.cost_center import set_cost_center

ACCOUNT = team()


def broken(bench: Bench, where: str, *, commits: int = 2) -> dict[str, Any]:
    """A transaction that ends the process at one place; a subscription takes three commits."""
    match where:
        case "after the first commit":
            return {"transaction": crashing(bench.transaction, 1, committed=True)}
        case "before the last commit":
            return {"transaction": crashing(bench.transaction, commits, committed=False)}
    return {"transaction": crashing(bench.transaction, commits, committed=True)}


def audited(bench: Bench, action: str) -> int:
    return int(bench.rows("SELECT count(*) AS n FROM audit WHERE action = :action", action=action)[0].n)


def current(bench: Bench) -> Any:
    statement = """
        SELECT billing_strategy, spending_limit, cycle_started_at, next_billing_at FROM cost_center
        WHERE attribution_id = :account AND superseded_at IS NULL
    """
    return bench.rows(statement, account=ACCOUNT)[0]


def test_a_customer_asked_for_twice_is_one(bench: Bench) -> None:
    assert bench.customer(ACCOUNT) == bench.customer(ACCOUNT)
    assert len(bench.world.customers()) == 1
    assert audited(bench, "stripe_customer.create") == 1


@pytest.mark.holds("lesson.two-clicks")
def test_customers_asked_for_at_once_are_one(bench: Bench) -> None:
    answers = at_once(*[lambda: bench.customer(ACCOUNT)] * 4)
    assert len(set(answers)) == 1
    assert len(bench.world.customers()) == 1
    assert audited(bench, "stripe_customer.create") == 1


@pytest.mark.parametrize("where", ["after the first commit", "at the end"])
def test_a_customer_is_refused_in_another_currency_than_before(bench: Bench, where: str) -> None:
    with pytest.raises(CrashError):
        bench.customer(ACCOUNT, currency="usd", **broken(bench, where))
    with pytest.raises(InvalidInputError, match="currency"):
        bench.customer(ACCOUNT, currency="eur")
    assert [customer.metadata["preferredCurrency"] for customer in bench.world.customers()] in ([], ["usd"])


def test_what_stripe_keeps_is_not_kept_here(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    tables = bench.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    for row in tables:
        dump = bench.rows(f"SELECT t::text AS line FROM {row.table_name} t")  # noqa: S608 - a table's name
        assert not [line for line in dump if "@" in line.line]


def test_a_subscription_asked_for_twice_is_one(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    assert bench.subscription(ACCOUNT) == bench.subscription(ACCOUNT)
    assert len(bench.world.subscriptions()) == 1


@pytest.mark.holds("lesson.two-clicks")
def test_subscriptions_asked_for_at_once_are_one(bench: Bench) -> None:
    bench.use(ACCOUNT, 7, until=BEGIN - HOUR)
    bench.customer(ACCOUNT)
    answers = at_once(*[lambda: bench.subscription(ACCOUNT)] * 4)
    assert len(set(answers)) == 1
    assert [subscription.id for subscription in bench.world.subscriptions()] == [answers[0]]
    assert bench.rows("SELECT number FROM stripe_subscription")[0].number == 1
    forgiven = bench.rows("SELECT credit_cents FROM ledger_entry WHERE kind = 'upgrade'")
    assert [row.credit_cents for row in forgiven] == [-700]
    assert audited(bench, "stripe_subscription.create") == 1


def test_a_crash_before_the_switch_is_stored_leaves_the_account_as_it_was(bench: Bench) -> None:
    bench.use(ACCOUNT, 7, until=BEGIN - HOUR)
    bench.customer(ACCOUNT)
    with pytest.raises(CrashError):
        bench.subscription(ACCOUNT, **broken(bench, "before the last commit", commits=3))
    assert current(bench).billing_strategy == "other"
    assert bench.balance(ACCOUNT, BEGIN) == 700
    assert bench.rows("SELECT stripe_subscription_id AS id FROM stripe_subscription")[0].id is None
    assert bench.sync(BEGIN) == 0


def test_a_subscribed_account_is_on_stripe_in_the_period_of_its_subscription(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    bench.subscription(ACCOUNT, spending_limit=4000)
    held = current(bench)
    item = bench.world.subscriptions()[0].items.data[0]
    assert (held.billing_strategy, held.spending_limit) == ("stripe", 4000)
    assert held.cycle_started_at.timestamp() == item.current_period_start
    assert held.next_billing_at.timestamp() == item.current_period_end
    assert held.next_billing_at == add_months(BEGIN, 1)


def test_an_account_that_was_on_stripe_already_takes_on_the_period_of_its_subscription(bench: Bench) -> None:
    with bench.transaction() as connection:
        set_cost_center(
            connection,
            parse_attribution(ACCOUNT),
            strategy=BillingStrategy.STRIPE,
            spending_limit=10,
            expected_version=None,
            limits=LIMITS,
            at=BEGIN - timedelta(days=3),
            actor=SYSTEM,
        )
    bench.use(ACCOUNT, 7, until=BEGIN)
    bench.customer(ACCOUNT)
    bench.subscription(ACCOUNT, spending_limit=None)
    held = current(bench)
    assert (held.billing_strategy, held.spending_limit, held.cycle_started_at) == ("stripe", 10, BEGIN)
    assert bench.balance(ACCOUNT, BEGIN) == 700


def test_the_open_balance_is_balanced_out_with_what_runs(bench: Bench) -> None:
    bench.use(ACCOUNT, 7, until=BEGIN - HOUR)
    bench.use(ACCOUNT, "0.05", until=BEGIN, post=False)
    bench.customer(ACCOUNT)
    bench.subscription(ACCOUNT)
    assert bench.balance(ACCOUNT, BEGIN) == 0


def test_an_account_without_a_customer_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match="attribution_id"):
        bench.subscription(ACCOUNT)
    with pytest.raises(CrashError):
        bench.customer(ACCOUNT, **broken(bench, "after the first commit"))
    with pytest.raises(InvalidInputError, match="attribution_id"):
        bench.subscription(ACCOUNT)
    assert bench.rows("SELECT number FROM stripe_subscription") == []


@pytest.mark.holds("stripe.price")
def test_a_currency_without_a_price_is_refused(bench: Bench) -> None:
    bench.customer(ACCOUNT, currency="eur")
    with pytest.raises(InvalidInputError, match=r"`currency`: .* \(got 'eur'\)"):
        bench.subscription(ACCOUNT, prices={"usd": bench.world.price_by_currency["usd"]})
    assert bench.rows("SELECT number FROM stripe_subscription") == []
    assert bench.world.subscriptions() == []


@pytest.mark.holds("stripe.price")
def test_the_price_is_that_of_the_customers_currency(bench: Bench) -> None:
    bench.customer(ACCOUNT, currency="eur")
    bench.subscription(ACCOUNT)
    price = bench.world.subscriptions()[0].items.data[0].price.id
    assert price == bench.world.price_by_currency["eur"]


@pytest.mark.parametrize("asked", [5, None])
def test_a_limit_that_is_refused_makes_no_subscription(bench: Bench, asked: int | None) -> None:
    limits = SpendingLimits(for_teams=500, for_users=100, min_for_users_on_stripe=1000)
    bench.customer(user())
    with pytest.raises(InvalidInputError, match="spending_limit"):
        bench.subscription(user(), spending_limit=asked, limits=limits)
    assert bench.world.subscriptions() == []


def test_a_second_subscription_after_the_first_has_a_number_and_a_key_of_its_own(bench: Bench) -> None:
    bench.customer(ACCOUNT)
    first = bench.subscription(ACCOUNT)
    bench.world.v1.subscriptions.cancel(first)
    bench.execute("UPDATE stripe_subscription SET ended_at = :at", at=BEGIN)
    bench.world.advance(BEGIN + HOUR)
    second = bench.subscription(ACCOUNT)
    assert second == bench.subscription(ACCOUNT) != first
    held = bench.rows("SELECT number, idempotency_key AS key, stripe_subscription_id AS id FROM stripe_subscription")
    assert sorted((row.number, row.key, row.id) for row in held) == [
        (1, f"subscription:{ACCOUNT}:1", first),
        (2, f"subscription:{ACCOUNT}:2", second),
    ]
    assert current(bench).cycle_started_at == BEGIN + HOUR


def test_accounts_subscribe_at_once_without_a_deadlock(bench: Bench) -> None:
    accounts = [team(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bench.customer, accounts))
        made = list(pool.map(bench.subscription, accounts))
    assert len(set(made)) == 4
    assert len(bench.world.customers()) == 4
