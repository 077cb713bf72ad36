from datetime import timedelta

import pytest

from tests.factories import DAY, HOUR, LIMITS, SYSTEM, call, team
from tests.snapshot import snapshot
from tests.stripe_world.bench import Bench, CrashError, at_once, crashing
from tests.stripe_world.fixtures import BEGIN
from usage_tasks.domain.accounts import parse_attribution
from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.cost_center import set_cost_center
from usage_tasks.services.metering.decide_reports import report_closing_quantity, report_quantities
from usage_tasks.tasks.billing import sync

ACCOUNT, OTHER = team("one"), team("two")
PERIOD_END = add_months(BEGIN, 1)
NOON = BEGIN + 2 * HOUR


def quantities(bench: Bench) -> list[int]:
    return [quantity for _, quantity, _ in bench.reports()]


@pytest.mark.holds("stripe.quantity")
@pytest.mark.parametrize(("cents", "quantity"), [(1, 1), (99, 1), (100, 1), (101, 2), (123_455, 1235)], ids=str)
def test_what_is_reported_are_whole_credits_rounded_up(bench: Bench, cents: int, quantity: int) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 1300, until=NOON)
    bench.credit(ACCOUNT, 130_000 - cents, at=NOON)
    assert bench.sync(NOON) == 1
    assert bench.reports() == [(NOON, quantity, "pending")]


@pytest.mark.parametrize("cents", [0, -1, -250])
def test_a_balance_of_nothing_or_less_is_not_reported_where_nothing_was_told(bench: Bench, cents: int) -> None:
    bench.pay(ACCOUNT)
    bench.credit(ACCOUNT, -cents, at=NOON)
    assert bench.sync(NOON) == 0


@pytest.mark.holds("stripe.quantity")
def test_a_balance_that_falls_below_nothing_is_reported_as_nothing(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 3, until=NOON)
    bench.sync(NOON)
    bench.credit(ACCOUNT, 900, at=NOON + HOUR)
    bench.sync(NOON + HOUR)
    assert quantities(bench) == [3, 0]


def test_what_runs_is_reported_up_to_the_second(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 120, until=NOON + HOUR, post=False)
    bench.sync(NOON + timedelta(microseconds=999_999))
    assert bench.reports() == [(NOON, 60, "pending")]


@pytest.mark.holds("stripe.quantity", "stripe.one-subscription")
def test_only_accounts_on_stripe_with_an_open_subscription_are_reported(bench: Bench) -> None:
    unsubscribed, ended, half = team("unsubscribed"), team("ended"), team("half")
    for account in (ended, ACCOUNT):
        bench.pay(account)
    bench.customer(half)
    for account in (unsubscribed, half):
        switch(bench, account, BillingStrategy.STRIPE)
    bench.execute(
        "UPDATE stripe_subscription SET ended_at = :at WHERE attribution_id = :account", at=BEGIN, account=ended
    )
    bench.execute(
        "INSERT INTO stripe_subscription (attribution_id, number, idempotency_key, price_id) "
        "VALUES (:account, 1, 'key', 'price')",
        account=half,
    )
    for account in (unsubscribed, ended, half, OTHER, ACCOUNT):
        bench.use(account, 5, until=NOON)
    assert bench.sync(NOON) == 1
    assert bench.reports(ACCOUNT) == [(NOON, 5, "pending")]


def switch(bench: Bench, account: str, strategy: BillingStrategy) -> None:
    with bench.transaction() as connection:
        set_cost_center(
            connection,
            parse_attribution(account),
            strategy=strategy,
            spending_limit=50,
            expected_version=None,
            limits=LIMITS,
            at=BEGIN,
            actor=SYSTEM,
        )


@pytest.mark.holds("stripe.quantity")
def test_nothing_is_reported_while_the_whole_credits_stay_the_same(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, "0.05", until=NOON)
    assert bench.sync(NOON) == 1
    bench.use(ACCOUNT, "0.95", until=NOON + HOUR)
    assert bench.sync(NOON + HOUR) == 0
    bench.use(ACCOUNT, "0.05", until=NOON + 2 * HOUR)
    assert bench.sync(NOON + 2 * HOUR) == 1
    assert quantities(bench) == [1, 2]


def test_a_new_period_is_told_its_quantity_even_if_it_equals_the_last_periods(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 5, until=NOON)
    bench.sync(PERIOD_END - HOUR)
    assert bench.sync(PERIOD_END - timedelta(seconds=1)) == 0
    # The invoice is not applied yet: the usage that it bills is not reported again, new usage is.
    assert bench.sync(PERIOD_END) == 0
    bench.use(ACCOUNT, 5, until=PERIOD_END + HOUR)
    assert bench.sync(PERIOD_END + HOUR) == 1
    assert bench.sync(PERIOD_END + 2 * HOUR) == 0
    assert quantities(bench) == [5, 5]


@pytest.mark.holds("cost-center.still-subscribed")
def test_an_account_cannot_leave_stripe_while_its_subscription_is_open(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    with pytest.raises(InvalidInputError, match="while the subscription sub_"):
        switch(bench, ACCOUNT, BillingStrategy.OTHER)


def test_a_sync_at_an_earlier_time_adds_nothing(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 5, until=NOON)
    bench.use(ACCOUNT, 5, until=NOON + HOUR)
    assert bench.sync(NOON + HOUR) == 1
    assert bench.sync(NOON) == 0
    assert bench.sync(BEGIN - DAY) == 0
    assert bench.reports() == [(NOON + HOUR, 10, "pending")]


def test_an_account_with_a_parked_report_gets_none_and_the_others_do(bench: Bench) -> None:
    for account in (ACCOUNT, OTHER):
        bench.pay(account)
        bench.use(account, 5, until=NOON)
    bench.sync(NOON)
    bench.execute(
        "UPDATE meter_report SET state = 'parked', parked_at = now() WHERE attribution_id = :account", account=ACCOUNT
    )
    for account in (ACCOUNT, OTHER):
        bench.use(account, 5, until=NOON + HOUR)
    assert bench.sync(NOON + HOUR) == 1
    assert [quantity for _, quantity, _ in bench.reports(OTHER)] == [5, 10]
    assert len(bench.reports(ACCOUNT)) == 1


def test_syncs_at_once_add_one_report(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 5, until=NOON)
    assert sum(at_once(*[lambda: bench.sync(NOON)] * 4)) == 1
    assert quantities(bench) == [5]


def test_a_sync_that_crashes_leaves_nothing_and_can_be_run_again(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 5, until=NOON)
    with pytest.raises(CrashError), crashing(bench.transaction, 1, committed=False)() as connection:
        report_quantities(connection, at=NOON)
    assert bench.reports() == []
    assert bench.sync(NOON) == 1


def test_a_closing_report_is_as_of_the_period_end_and_dated_just_inside(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, "0.05", until=PERIOD_END)
    bench.use(ACCOUNT, 5, until=PERIOD_END + timedelta(minutes=5))
    bench.sync(PERIOD_END + timedelta(minutes=10))
    with bench.transaction() as connection:
        for expected in (1, 0):
            assert report_closing_quantity(connection, ACCOUNT, period_end=PERIOD_END) == expected
    assert bench.reports() == [
        (PERIOD_END - timedelta(seconds=1), 1, "pending"),
        (PERIOD_END + timedelta(minutes=10), 6, "pending"),
    ]


def test_a_period_that_knows_its_closing_quantity_gets_no_closing_report(bench: Bench) -> None:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 5, until=NOON)
    bench.sync(NOON)
    with bench.transaction() as connection:
        assert report_closing_quantity(connection, ACCOUNT, period_end=PERIOD_END) == 0


@pytest.mark.holds("usage.dry-run")
def test_a_dry_sync_answers_the_very_reports_and_writes_and_sends_nothing(
    bench: Bench, rt: Runtime, broker: str
) -> None:
    bench.pay(ACCOUNT)
    bench.pay(OTHER)
    bench.use(ACCOUNT, "1.05", until=NOON)
    before = snapshot(bench.database)
    plan = call(sync.sync_billing, at=NOON.isoformat(), scheduled=True, dry_run=True)["dry_run"]
    assert snapshot(bench.database) == before
    assert rt.redis.keys() == []
    assert call(sync.sync_billing, at=NOON.isoformat()) == {"reports": 1}
    assert rt.redis.keys() != []  # the call to send them
    (report,) = bench.rows("SELECT attribution_id, as_of, identifier, quantity FROM meter_report")
    assert (plan["rows"], plan["credit_cents"]) == (1, None)
    assert plan["sample"] == [report._asdict() | {"as_of": report.as_of.isoformat()}]
    assert call(sync.sync_billing, at=NOON.isoformat(), dry_run=True)["dry_run"]["rows"] == 0
