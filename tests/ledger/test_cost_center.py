from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.factories import DAY, HOUR, LIMITS, START, SYSTEM, account_of, record, session_report, team, used, user
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError, StaleVersionError
from usage_tasks.services.ledger.cost_center import get_cost_center, set_cost_center
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger.balances import get_balance

OTHER, STRIPE = BillingStrategy.OTHER, BillingStrategy.STRIPE
UPGRADES = "SELECT key, credit_cents, effective_at FROM ledger_entry WHERE kind = 'upgrade' ORDER BY effective_at"


def get(connection: Connection, attribution_id: AttributionId = team(), *, at: datetime = START) -> CostCenter:  # noqa: B008 - a constant
    return get_cost_center(connection, account_of(attribution_id), limits=LIMITS, at=at, actor=SYSTEM)


def put(connection: Connection, strategy: BillingStrategy, limit: int | None = None, **fields: Any) -> CostCenter:
    options = {"expected_version": None, "at": START} | fields
    account = account_of(options.pop("attribution_id", team()))
    return set_cost_center(
        connection, account, strategy=strategy, spending_limit=limit, limits=LIMITS, actor=SYSTEM, **options
    )


def upgrades(connection: Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(text(UPGRADES))]


def versions(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM cost_center")).scalar_one())


@pytest.mark.holds("cost-center.first-read")
@pytest.mark.parametrize(("attribution_id", "limit"), [(team(), 500), (user(), 100)])
def test_the_first_read_of_an_unknown_account_opens_it(
    connection: Connection, attribution_id: AttributionId, limit: int
) -> None:
    opened = get(connection, attribution_id, at=START + HOUR)
    assert (opened.version, opened.billing_strategy, opened.spending_limit) == (1, OTHER, limit)
    assert (opened.cycle.started_at, opened.next_billing_at) == (START + HOUR, add_months(START + HOUR, 1))
    assert get(connection, attribution_id, at=START + DAY) == opened


@pytest.mark.holds("cost-center.first-read")
def test_ten_first_reads_at_once_open_one_cost_center(database: Database) -> None:
    readers = 10
    ready = Barrier(readers)

    def read() -> CostCenter:
        ready.wait()
        with database.transaction() as connection:
            return get(connection)

    with ThreadPoolExecutor(readers) as pool:
        found = {each.result() for each in [pool.submit(read) for _ in range(readers)]}
    assert len(found) == 1
    with database.transaction() as connection:
        assert versions(connection) == 1


@pytest.mark.holds("cost-center.limit-returns")
def test_each_switch_starts_a_cycle_and_other_gets_its_limit_back(connection: Connection) -> None:
    put(connection, OTHER, 20)
    paying = put(connection, STRIPE, 400_050, at=START + DAY)
    assert (paying.billing_strategy, paying.spending_limit) == (STRIPE, 400_050)
    assert (paying.cycle.started_at, paying.next_billing_at) == (START + DAY, add_months(START + DAY, 1))
    back = put(connection, OTHER, at=START + 2 * DAY)
    assert (back.billing_strategy, back.spending_limit) == (OTHER, 20)
    assert (back.cycle.started_at, back.next_billing_at) == (START + 2 * DAY, add_months(START + 2 * DAY, 1))


@pytest.mark.holds("cost-center.limit-of-stripe")
def test_a_limit_that_was_set_on_stripe_does_not_follow_back_to_other(connection: Connection) -> None:
    put(connection, OTHER, 10)
    put(connection, STRIPE)
    assert put(connection, STRIPE, 20).spending_limit == 20
    assert put(connection, OTHER).spending_limit == 10


def test_a_new_limit_keeps_the_cycle(connection: Connection) -> None:
    before = get(connection)
    after = put(connection, OTHER, 7, at=START + DAY)
    assert (after.spending_limit, after.version, after.cycle) == (7, 2, before.cycle)
    assert get(connection) == after


def test_setting_what_holds_already_makes_no_version(connection: Connection) -> None:
    before = get(connection)
    assert put(connection, OTHER, 500) == before
    assert put(connection, OTHER) == before
    assert versions(connection) == 1


@pytest.mark.holds("cost-center.limit-below-0")
@pytest.mark.parametrize("strategy", list(BillingStrategy))
def test_a_limit_below_zero_is_refused_and_nothing_changes(connection: Connection, strategy: BillingStrategy) -> None:
    before = get(connection)
    with pytest.raises(InvalidInputError, match=r"`spending_limit`: must be from 0 .* \(got -1\)"):
        put(connection, strategy, -1)
    assert get(connection) == before
    assert versions(connection) == 1


def test_a_change_of_another_version_than_expected_is_refused(connection: Connection) -> None:
    first = get(connection)
    put(connection, OTHER, 7, expected_version=first.version)
    with pytest.raises(StaleVersionError, match="expected_version: 1 is not current"):
        put(connection, OTHER, 8, expected_version=first.version)
    assert get(connection).spending_limit == 7


def test_of_changes_at_once_that_expect_one_version_one_is_made(database: Database) -> None:
    callers = 4
    ready = Barrier(callers)
    with database.transaction() as connection:
        get(connection)

    def change(limit: int) -> bool:
        ready.wait()
        try:
            with database.transaction() as connection:
                put(connection, OTHER, limit, expected_version=1)
        except StaleVersionError:
            return False
        return True

    with ThreadPoolExecutor(callers) as pool:
        assert sum(pool.map(change, range(callers))) == 1
    with database.transaction() as connection:
        assert get(connection).version == 2


@pytest.mark.holds("cost-center.upgrade")
def test_an_upgrade_balances_out_what_is_open_with_what_runs(connection: Connection) -> None:
    used(connection, team(), 1000, at=START + HOUR)
    record(connection, session_report(started_at=START + HOUR, workspace_class="xlarge"))
    upgraded = put(connection, STRIPE, at=START + 2 * HOUR)
    assert upgrades(connection) == [(f"upgrade:{upgraded.version}", -7000, START + 2 * HOUR)]
    assert get_balance(connection, team(), at=START + 2 * HOUR) == 0
    assert get_balance(connection, team(), at=START + 3 * HOUR) == 6000


@pytest.mark.holds("cost-center.upgrade")
def test_toggling_within_a_month_forgives_nothing_more(connection: Connection) -> None:
    get(connection)
    used(connection, team(), 1000, at=START + HOUR)
    for day in (1, 2, 3):
        put(connection, STRIPE, at=START + day * DAY)
        used(connection, team(), 500, at=START + day * DAY + HOUR)
        put(connection, OTHER, at=START + day * DAY + 2 * HOUR)
    assert [cents for _, cents, _ in upgrades(connection)] == [-1000]
    assert get_balance(connection, team(), at=START + 4 * DAY) == 1500


def test_a_month_later_an_upgrade_balances_out_again(connection: Connection) -> None:
    get(connection)
    used(connection, team(), 1000, at=START + HOUR)
    put(connection, STRIPE, at=START + DAY)
    put(connection, OTHER, at=START + 2 * DAY)
    used(connection, team(), 500, at=START + 3 * DAY)
    put(connection, STRIPE, at=add_months(START + DAY, 1))
    assert [cents for _, cents, _ in upgrades(connection)] == [-1000, -500]


def test_an_upgrade_with_nothing_open_forgives_nothing(connection: Connection) -> None:
    put(connection, STRIPE)
    assert upgrades(connection) == []


@pytest.mark.holds("cost-center.upgrade")
def test_the_switch_and_its_balancing_out_are_one_transaction(database: Database) -> None:
    with database.transaction() as connection:
        used(connection, team(), 1000, at=START + HOUR)
        connection.execute(text("ALTER TABLE audit ADD CONSTRAINT refused CHECK (false)"))
    with pytest.raises(Exception, match="refused"), database.transaction() as connection:
        put(connection, STRIPE, at=START + DAY)
    with database.transaction() as connection:
        assert get(connection).billing_strategy is OTHER
        assert upgrades(connection) == []


@pytest.mark.holds("cost-center.due-reset-first")
def test_an_expired_cost_center_is_reset_before_it_is_read(connection: Connection) -> None:
    get(connection)
    used(connection, team(), 80_000, at=START + DAY)
    late = add_months(START, 1) + 3 * DAY
    found = get(connection, at=late)
    assert (found.cycle.started_at, found.next_billing_at) == (add_months(START, 1), add_months(START, 2))
    assert get_balance(connection, team(), at=late) == 30_000
    assert get(connection, at=late) == found


@pytest.mark.holds("cost-center.due-reset-first")
def test_an_unexpired_cost_center_and_one_on_stripe_are_left_as_they_are(connection: Connection) -> None:
    opened = get(connection)
    assert get(connection, at=add_months(START, 1) - timedelta(microseconds=1)) == opened
    paying = put(connection, STRIPE, at=START + DAY)
    assert get(connection, at=START + 100 * DAY) == paying


@pytest.mark.holds("cost-center.due-reset-first")
def test_a_due_reset_comes_before_a_switch(connection: Connection) -> None:
    get(connection)
    used(connection, team(), 80_000, at=START + DAY)
    late = add_months(START, 1) + DAY
    put(connection, STRIPE, at=late)
    kinds = connection.execute(text("SELECT kind, credit_cents FROM ledger_entry ORDER BY effective_at")).all()
    assert [tuple(row) for row in kinds] == [("session", 80_000), ("reset", -50_000), ("upgrade", -30_000)]


def test_a_change_is_audited_with_its_actor_and_what_it_forgave(connection: Connection) -> None:
    used(connection, team(), 1000, at=START + HOUR)
    put(connection, STRIPE, 7, at=START + DAY)
    told = connection.execute(text("SELECT at, actor, action, attribution_id, details FROM audit")).one()
    assert tuple(told[:4]) == (START + DAY, SYSTEM, "cost_center.set", team())
    assert told.details == {
        "version": 2,
        "billing_strategy": ["other", "stripe"],
        "spending_limit": [500, 7],
        "forgiven_cents": 1000,
    }
