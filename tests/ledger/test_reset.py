from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
from sqlalchemy import Connection, text

from tests.factories import (
    DAY,
    HOUR,
    LIMITS,
    START,
    SYSTEM,
    account_of,
    record,
    session_report,
    stopped_report,
    team,
    used,
    used_report,
    user,
)
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter
from usage_tasks.domain.cycles import add_months
from usage_tasks.services.ledger.cost_center import get_cost_center, open_accounts, set_cost_center
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.ledger.reset import BATCH, reset_account, reset_due
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger import cost_centers
from usage_tasks.storage.ledger.balances import get_balance

MINUTE = timedelta(minutes=1)
MONTH = add_months(START, 1)
RESETS = """
    SELECT attribution_id, credit_cents, effective_at FROM ledger_entry WHERE kind = 'reset'
    ORDER BY attribution_id, effective_at
"""


def resets(connection: Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(text(RESETS))]


def open_with(connection: Connection, attribution_id: AttributionId, *, limit: int, at: datetime = START) -> None:
    """Open an account on strategy other with a limit of its own."""
    limits = replace(LIMITS, for_teams=limit, for_users=limit)
    open_accounts(connection, [attribution_id], limits=limits, at=at, actor=SYSTEM)


def to_stripe(connection: Connection, attribution_id: AttributionId, *, at: datetime) -> CostCenter:
    return set_cost_center(
        connection,
        account_of(attribution_id),
        strategy=BillingStrategy.STRIPE,
        spending_limit=1000,
        expected_version=None,
        limits=LIMITS,
        at=at,
        actor=SYSTEM,
    )


@pytest.mark.holds("cost-center.reset")
@pytest.mark.parametrize(
    ("cents", "limit", "left"), [(30_000, 500, 0), (50_000, 500, 0), (80_000, 500, 30_000), (100, 0, 100)]
)
def test_a_reset_covers_up_to_the_limit_and_carries_the_rest(
    connection: Connection, cents: int, limit: int, left: int
) -> None:
    open_with(connection, team(), limit=limit)
    used(connection, team(), cents, at=START + 20 * DAY)
    assert reset_due(connection, at=MONTH).cycles == 1
    assert resets(connection) == ([(team(), left - cents, MONTH)] if left < cents else [])
    assert get_balance(connection, team(), at=MONTH) == left
    assert get_balance(connection, team(), at=MONTH - MINUTE) == cents
    current = cost_centers.get_current(connection, team())
    assert (current.version, current.cycle.started_at) == (2, MONTH)
    assert current.next_billing_at == add_months(START, 2)


@pytest.mark.holds("cost-center.late-usage")
def test_usage_that_is_reported_after_its_cycles_reset_is_covered_by_the_next_one(connection: Connection) -> None:
    open_with(connection, team(), limit=150)
    used(connection, team(), 10_000, at=START + 20 * DAY)
    reset_due(connection, at=MONTH)
    first = resets(connection)
    record(connection, used_report(team(), 6_000, at=START + 10 * DAY), at=MONTH + DAY)
    post_batch(connection, at=MONTH + DAY)
    assert resets(connection) == first == [(team(), -10_000, MONTH)]
    # The past shows it at its own time; the past reset stays unchanged, so the rest is open now.
    assert [get_balance(connection, team(), at=at) for at in (MONTH - MINUTE, MONTH, MONTH + DAY)] == [
        16_000,
        6_000,
        6_000,
    ]
    used(connection, team(), 12_000, at=MONTH + 10 * DAY)
    reset_due(connection, at=add_months(START, 2))
    assert resets(connection) == [*first, (team(), -15_000, add_months(START, 2))]
    assert get_balance(connection, team(), at=add_months(START, 2)) == 3_000
    assert verify(connection, at=add_months(START, 2), grace=timedelta(0)).clean


def test_a_cycle_is_due_at_its_end_and_no_sooner(connection: Connection) -> None:
    open_with(connection, team(), limit=500)
    assert reset_due(connection, at=MONTH - timedelta(microseconds=1)).cycles == 0
    assert reset_due(connection, at=MONTH).cycles == 1


@pytest.mark.holds("cost-center.reset")
def test_a_balance_of_zero_or_less_is_left_alone(connection: Connection) -> None:
    open_with(connection, team(), limit=500)
    open_with(connection, team("credit"), limit=500)
    wrong = stopped_report(HOUR, attribution_id=team("credit"), workspace_class="xlarge")
    record(connection, wrong)
    post_batch(connection, at=START + DAY)
    to_stripe(connection, team("credit"), at=START + DAY)
    set_cost_center(
        connection,
        account_of(team("credit")),
        strategy=BillingStrategy.OTHER,
        spending_limit=None,
        expected_version=None,
        limits=LIMITS,
        at=START + DAY,
        actor=SYSTEM,
    )
    right = {"instance_id": wrong.instance_id, "attribution_id": team("credit"), "workspace_class": "xlarge"}
    record(connection, stopped_report(MINUTE, observed_at=START + DAY, **right))
    post_batch(connection, at=START + DAY)
    assert get_balance(connection, team("credit"), at=START + 40 * DAY) == 100 - 6000
    assert reset_due(connection, at=START + 40 * DAY).cycles == 2
    assert resets(connection) == []


def test_a_reset_counts_what_runs_at_the_cycles_end(connection: Connection) -> None:
    record(connection, session_report(started_at=MONTH - HOUR, workspace_class="xlarge"), at=START)
    assert reset_due(connection, at=MONTH + DAY).cycles == 1
    assert resets(connection) == [(team(), -6000, MONTH)]
    assert get_balance(connection, team(), at=MONTH + HOUR) == 6000


@pytest.mark.holds("cost-center.reset")
def test_an_account_on_stripe_is_never_reset(connection: Connection) -> None:
    open_with(connection, team(), limit=500)
    to_stripe(connection, team(), at=START)
    used(connection, team(), 1000, at=START + DAY)
    assert reset_due(connection, at=START + 400 * DAY).cycles == 0
    assert reset_account(connection, team(), at=START + 400 * DAY, actor=SYSTEM) == 0
    assert resets(connection) == []


@pytest.mark.holds("cost-center.two-months-late")
def test_a_late_account_catches_up_one_cycle_at_a_time_each_with_its_allowance(connection: Connection) -> None:
    anchor = datetime(2026, 1, 31, 9, tzinfo=UTC)
    open_with(connection, team(), limit=100, at=anchor)
    used(connection, team(), 25_000, at=anchor + DAY)
    used(connection, team(), 20_000, at=datetime(2026, 3, 5, tzinfo=UTC))
    edges = [datetime(2026, 2, 28, 9, tzinfo=UTC), datetime(2026, 3, 31, 9, tzinfo=UTC)]
    late = datetime(2026, 4, 1, tzinfo=UTC)
    assert [reset_due(connection, at=late).cycles for _ in range(3)] == [1, 1, 0]
    assert resets(connection) == [(team(), -10_000, edges[0]), (team(), -10_000, edges[1])]
    assert get_balance(connection, team(), at=late) == 25_000
    current = cost_centers.get_current(connection, team())
    assert current.cycle.started_at <= late < current.next_billing_at
    assert current.next_billing_at == datetime(2026, 4, 30, 9, tzinfo=UTC)


@pytest.mark.holds("cost-center.reset-once", "lesson.read-resets")
def test_a_reset_run_twice_is_one_reset(connection: Connection) -> None:
    open_with(connection, team(), limit=500)
    used(connection, team(), 80_000, at=START + DAY)
    assert [reset_due(connection, at=MONTH).cycles for _ in range(3)] == [1, 0, 0]
    assert len(resets(connection)) == 1


@pytest.mark.holds("cost-center.reset-once", "lesson.read-resets")
def test_workers_and_readers_at_once_reset_each_cycle_once(database: Database) -> None:
    accounts, workers = [team(number) for number in range(10)], 4
    with database.transaction() as connection:
        for each in accounts:
            open_with(connection, each, limit=100)
        record(connection, *(used_report(each, 50_000, at=START + DAY) for each in accounts))
        post_batch(connection, at=START + 2 * DAY)
    ready, late = Barrier(workers), add_months(START, 3)

    def run_job() -> None:
        ready.wait()
        while True:
            with database.transaction() as connection:
                if not reset_due(connection, at=late).cycles:
                    return

    def read() -> None:
        ready.wait()
        for each in reversed(accounts):
            with database.transaction() as connection:
                found = get_cost_center(connection, account_of(each), limits=LIMITS, at=late, actor=SYSTEM)
            assert found.cycle.started_at == late

    with ThreadPoolExecutor(workers) as pool:
        for each_run in [pool.submit(work) for work in (run_job, run_job, read, read)]:
            each_run.result()
    with database.transaction() as connection:
        expected = [(each, -10_000, add_months(START, number)) for each in accounts for number in (1, 2, 3)]
        assert resets(connection) == sorted(expected)
        assert all(cost_centers.get_current(connection, each).cycle.number == 3 for each in accounts)


@pytest.mark.holds("cost-center.due-reset-first")
def test_a_reader_that_waited_for_the_job_still_applies_what_is_due(database: Database) -> None:
    late = add_months(START, 3)

    def read() -> CostCenter:
        with database.transaction() as connection:
            return get_cost_center(connection, account_of(team()), limits=LIMITS, at=late, actor=SYSTEM)

    with database.transaction() as connection:
        open_with(connection, team(), limit=100)
    with ThreadPoolExecutor() as pool:
        with database.transaction() as job:
            assert reset_due(job, at=late).cycles == 1
            reader: Future[CostCenter] = pool.submit(read)
            with pytest.raises(TimeoutError):
                reader.result(timeout=0.2)
        assert reader.result().cycle.started_at == late


def reset_and_crash(database: Database) -> None:
    with database.transaction() as connection:
        assert reset_due(connection, at=MONTH).cycles == 1
        raise KeyboardInterrupt


@pytest.mark.holds("cost-center.reset-atomic", "lesson.half-reset")
def test_a_crash_after_the_reset_leaves_neither_entry_nor_new_cycle(database: Database) -> None:
    with database.transaction() as connection:
        open_with(connection, team(), limit=500)
        used(connection, team(), 1000, at=START + DAY)
    with pytest.raises(KeyboardInterrupt):
        reset_and_crash(database)
    with database.transaction() as connection:
        assert resets(connection) == []
        assert cost_centers.get_current(connection, team()).version == 1
        assert reset_due(connection, at=MONTH).cycles == 1


@pytest.mark.holds("cost-center.reset-atomic", "lesson.half-reset")
def test_a_cycle_that_cannot_advance_leaves_no_entry_and_holds_up_no_other(database: Database) -> None:
    accounts = [team(number) for number in range(5)]
    with database.transaction() as connection:
        for each in accounts:
            open_with(connection, each, limit=500)
        record(connection, *(used_report(each, 1000, at=START + DAY) for each in accounts))
        post_batch(connection, at=START + DAY)
        refuse = f"CHECK (attribution_id <> '{accounts[2]}' OR version = 1)"
        connection.execute(text(f"ALTER TABLE cost_center ADD CONSTRAINT refused {refuse}"))
    with database.transaction() as connection:
        batch = reset_due(connection, at=MONTH)
        assert batch.cycles == 4
        ((account, reason),) = batch.failed
        assert account == accounts[2]
        assert "refused" in reason
        assert reset_due(connection, at=MONTH, excluding=[account]).cycles == 0
    with database.transaction() as connection:
        assert resets(connection) == sorted((each, -1000, MONTH) for each in accounts if each != accounts[2])
        assert cost_centers.get_current(connection, accounts[2]).version == 1


def test_more_accounts_than_a_batch_are_reset_in_batches(connection: Connection) -> None:
    accounts = [user(number) for number in range(BATCH + 1)]
    open_accounts(connection, accounts, limits=LIMITS, at=START, actor=SYSTEM)
    assert [reset_due(connection, at=MONTH).cycles for _ in range(3)] == [BATCH, 1, 0]
