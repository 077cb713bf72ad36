"""Grants among resets, upgrades, limits and workers. test_grants_property.py covers their payments over time."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import Connection, text

from tests.factories import DAY, HOUR, START, SYSTEM, account_of, give, record, session_report, team, used, used_report
from tests.ledger.test_cost_center import OTHER, STRIPE, get, put
from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvariantError
from usage_tasks.services.ledger.grant_credits import list_grants
from usage_tasks.services.ledger.post_usage import announce_limits, post_batch
from usage_tasks.services.ledger.read_usage import get_standing
from usage_tasks.services.ledger.reset import reset_account, reset_due, settle_expired
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger.balances import get_balance, list_balances

MONTH = add_months(START, 1)
MICROSECOND = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
SETTLED = """
    SELECT kind, credit_cents, effective_at FROM ledger_entry
    WHERE kind IN ('grant_burn', 'reset', 'upgrade') AND attribution_id = :account ORDER BY effective_at, kind, key
"""
DAMAGES = [
    "UPDATE ledger_entry SET credit_cents = -9999 WHERE kind = 'grant_burn'",
    "UPDATE ledger_entry SET credit_cents = 1 WHERE kind = 'grant_burn'",
    "UPDATE ledger_entry SET key = 'grant:77:x' WHERE kind = 'grant_burn'",
    "UPDATE ledger_entry SET effective_at = effective_at + interval '1 s' WHERE kind = 'grant_burn'",
    "DELETE FROM grant_lapse",
    "UPDATE grant_lapse SET credit_cents = credit_cents + 1",
    "UPDATE credit_grant SET amount_cents = amount_cents - 1 WHERE number = 1",
    "UPDATE credit_grant SET closed_at = NULL WHERE number = 1",
    "UPDATE credit_grant SET closed_at = now() WHERE number = 2",
    "UPDATE credit_grant SET expires_at = expires_at - interval '1 s' WHERE number = 1",
]


def settled(connection: Connection, account: AttributionId = team()) -> list[tuple[object, ...]]:  # noqa: B008 - a constant
    return [tuple(row) for row in connection.execute(text(SETTLED), {"account": account})]


def remaining(connection: Connection) -> list[int]:
    return [each.remaining_cents for each in list_grants(connection, account_of(team()), at=START + 400 * DAY)]


@pytest.mark.holds("grants.in-force")
def test_a_grant_lowers_the_balance_to_the_second_and_writes_nothing(connection: Connection) -> None:
    record(connection, session_report(workspace_class="xlarge"))
    give(connection, 250, at=START + MINUTE, expires_at=START + 4 * MINUTE)
    instants = [MINUTE - MICROSECOND, MINUTE, 2 * MINUTE, 3 * MINUTE, 4 * MINUTE - MICROSECOND, 4 * MINUTE]
    assert [get_balance(connection, team(), at=START + after) for after in instants] == [100, 0, 0, 50, 150, 400]
    assert connection.execute(text("SELECT count(*) FROM ledger_entry")).scalar_one() == 0


@pytest.mark.holds("grants.late-usage")
def test_a_grant_that_has_lapsed_pays_nothing_of_what_is_reported_later(connection: Connection) -> None:
    expiry = START + 5 * DAY
    give(connection, 10_000, at=START, expires_at=expiry)
    used(connection, team(), 1_000, at=START + DAY)
    settle_expired(connection, at=expiry + DAY)
    before = settled(connection)
    assert before == [("grant_burn", -1_000, expiry)]
    record(connection, used_report(team(), 6_000, at=START + 2 * DAY), at=expiry + DAY)
    post_batch(connection, at=expiry + DAY)
    settle_expired(connection, at=expiry + 2 * DAY)
    assert (settled(connection), remaining(connection)) == (before, [0])
    assert get_balance(connection, team(), at=expiry + 2 * DAY) == 6_000
    # A grant in force pays it, because it pays open usage.
    give(connection, 10_000, at=expiry + 3 * DAY)
    assert get_balance(connection, team(), at=expiry + 3 * DAY) == 0
    assert verify(connection, at=expiry + 3 * DAY, grace=MINUTE).clean


@pytest.mark.holds("grants.expiry")
def test_a_settled_expiry_leaves_the_past_as_it_was_shown(connection: Connection) -> None:
    record(connection, session_report(workspace_class="xlarge"))
    give(connection, 250, at=START + MINUTE, expires_at=START + 4 * MINUTE)
    assert settle_expired(connection, at=START + DAY).expiries == 1
    instants = [MINUTE - MICROSECOND, MINUTE, 2 * MINUTE, 3 * MINUTE, 4 * MINUTE, 5 * MINUTE]
    assert [get_balance(connection, team(), at=START + after) for after in instants] == [100, 0, 0, 50, 150, 250]


def test_an_account_without_grants_shows_what_is_open_beside_one_that_has_some(connection: Connection) -> None:
    used(connection, team(), 1000, at=START + HOUR)
    used(connection, team("other"), 1000, at=START + HOUR)
    give(connection, 5000, at=START + HOUR)
    at = START + DAY
    assert list_balances(connection, [(team(), at), (team("other"), at)]) == {team(): 0, team("other"): 1000}


@pytest.mark.holds("grants.expiry")
def test_a_grant_never_makes_a_balance_negative(connection: Connection) -> None:
    get(connection)
    give(connection, 5000)
    assert get_balance(connection, team(), at=START + DAY) == 0
    used(connection, team(), 1000, at=START + DAY)
    reset_due(connection, at=MONTH)
    assert get_balance(connection, team(), at=MONTH) == 0
    assert remaining(connection) == [4000]


@pytest.mark.holds("grants.burn-order")
def test_a_grant_of_100_pays_30_and_keeps_70(connection: Connection) -> None:
    get(connection)
    give(connection, 10_000)
    used(connection, team(), 3_000, at=START + DAY)
    for at in (START + DAY, MONTH):
        reset_due(connection, at=at)
        assert get_balance(connection, team(), at=at) == 0
    assert remaining(connection) == [7_000]
    assert settled(connection) == [("grant_burn", -3_000, MONTH)]


@pytest.mark.holds("grants.cycle-end")
def test_grants_pay_before_the_allowance_of_a_cycle(connection: Connection) -> None:
    get(connection)
    put(connection, OTHER, 5)
    give(connection, 300)
    used(connection, team(), 1000, at=START + DAY)
    assert reset_due(connection, at=MONTH).cycles == 1
    assert settled(connection) == [("grant_burn", -300, MONTH), ("reset", -500, MONTH)]
    assert get_balance(connection, team(), at=MONTH) == 200


def test_a_grant_of_the_next_cycle_leaves_this_cycles_usage_to_the_allowance(connection: Connection) -> None:
    get(connection)
    give(connection, 300, effective_at=MONTH)
    used(connection, team(), 1000, at=START + DAY)
    reset_due(connection, at=MONTH)
    assert settled(connection) == [("reset", -1000, MONTH)]
    assert remaining(connection) == [300]


def test_a_late_job_settles_what_expired_before_each_cycles_end(connection: Connection) -> None:
    get(connection)
    put(connection, OTHER, 1)
    give(connection, 300, expires_at=START + 10 * DAY)
    give(connection, 150, expires_at=START + 40 * DAY)
    used(connection, team(), 200, at=START + 5 * DAY)
    used(connection, team(), 400, at=START + 20 * DAY)
    used(connection, team(), 50, at=START + 35 * DAY)
    late = START + 50 * DAY
    batches = [reset_due(connection, at=late) for _ in range(3)]
    assert [(batch.cycles, batch.expiries) for batch in batches] == [(0, 1), (1, 0), (0, 0)]
    assert (settle_expired(connection, at=late).expiries, settle_expired(connection, at=late).idle) == (0, True)
    assert settled(connection) == [
        ("grant_burn", -200, START + 10 * DAY),
        ("grant_burn", -150, MONTH),
        ("reset", -100, MONTH),
    ]
    assert get_balance(connection, team(), at=late) == 200


def test_the_settling_job_ends_the_cycle_that_ended_before_the_expiry(connection: Connection) -> None:
    get(connection)
    put(connection, OTHER, 1)
    give(connection, 300, expires_at=START + 40 * DAY)
    used(connection, team(), 200, at=START + 5 * DAY)
    used(connection, team(), 50, at=START + 35 * DAY)
    batches = [settle_expired(connection, at=START + 50 * DAY) for _ in range(3)]
    assert [(batch.cycles, batch.expiries) for batch in batches] == [(1, 0), (0, 1), (0, 0)]
    assert settled(connection) == [("grant_burn", -200, MONTH), ("grant_burn", -50, START + 40 * DAY)]


def test_a_grant_given_with_an_early_at_does_not_pay_what_a_reset_paid(connection: Connection) -> None:
    get(connection)
    used(connection, team(), 1000, at=START + DAY)
    reset_due(connection, at=MONTH)
    give(connection, 700, at=START + 2 * DAY, expires_at=START + 3 * DAY)
    assert settle_expired(connection, at=MONTH + DAY).expiries == 1
    assert settled(connection) == [("reset", -1000, MONTH)]
    assert get_balance(connection, team(), at=MONTH + DAY) == 0
    assert verify(connection, at=MONTH + DAY).clean


@pytest.mark.holds("grants.upgrade")
def test_an_upgrade_forgives_what_grants_leave_and_ends_their_cycle(connection: Connection) -> None:
    get(connection)
    give(connection, 300)
    give(connection, 900, rollover_cap_cents=100, priority=90)
    used(connection, team(), 700, at=START + DAY)
    put(connection, STRIPE, at=START + 2 * DAY)
    at = START + 2 * DAY
    assert settled(connection) == [("grant_burn", -300, at), ("grant_burn", -400, at)]
    assert remaining(connection) == [100, 0]
    assert verify(connection, at=at).clean


@pytest.mark.holds("grants.upgrade")
def test_an_upgrade_forgives_only_what_grants_did_not_pay(connection: Connection) -> None:
    get(connection)
    give(connection, 300)
    used(connection, team(), 1000, at=START + DAY)
    put(connection, STRIPE, at=START + 2 * DAY)
    assert settled(connection) == [("grant_burn", -300, START + 2 * DAY), ("upgrade", -700, START + 2 * DAY)]


def test_a_limit_is_reached_when_grants_no_longer_pay(connection: Connection) -> None:
    get(connection)
    put(connection, OTHER, 5)
    give(connection, 600, expires_at=START + 5 * DAY)
    used(connection, team(), 1000, at=START + DAY)
    assert announce_limits(connection, at=START + DAY).limits == 0
    assert get_standing(connection, account_of(team()), at=START + DAY).balance_cents == 400
    used(connection, team(), 100, at=START + 2 * DAY)
    assert announce_limits(connection, at=START + 2 * DAY).limits == 1


def test_settling_twice_is_settling_once(connection: Connection) -> None:
    get(connection)
    give(connection, 300, expires_at=START + 5 * DAY)
    used(connection, team(), 1000, at=START + DAY)
    assert [settle_expired(connection, at=START + 6 * DAY).expiries for _ in range(3)] == [1, 0, 0]
    assert len(settled(connection)) == 1


def test_workers_and_readers_at_once_settle_each_instant_once(database: Database) -> None:
    accounts, workers = [team(number) for number in range(8)], 4
    late = START + 50 * DAY
    with database.transaction() as connection:
        for each in accounts:
            get(connection, each)
            give(connection, 300, attribution_id=each, expires_at=START + 10 * DAY)
            give(connection, 150, attribution_id=each, expires_at=START + 40 * DAY)
        record(connection, *(used_report(each, 1000, at=START + 5 * DAY) for each in accounts))
        record(connection, *(used_report(each, 200, at=START + 35 * DAY) for each in accounts))
    ready = Barrier(workers)

    def run_job(take: object) -> None:
        ready.wait()
        for _ in range(20):
            with database.transaction() as connection:
                post_batch(connection, at=late)
            with database.transaction() as connection:
                (reset_due if take == "reset" else settle_expired)(connection, at=late)

    def read() -> None:
        ready.wait()
        for each in reversed(accounts):
            with database.transaction() as connection:
                reset_account(connection, each, at=late, actor=SYSTEM)

    with ThreadPoolExecutor(workers) as pool:
        runs = [pool.submit(run_job, "reset"), pool.submit(run_job, "settle"), pool.submit(read), pool.submit(read)]
        for each_run in runs:
            each_run.result()
    with database.transaction() as connection:
        for each in accounts:
            assert settled(connection, each) == [
                ("grant_burn", -300, START + 10 * DAY),
                ("grant_burn", -150, START + 10 * DAY),
                ("reset", -550, MONTH),
            ]
        assert verify(connection, at=late).describe() == ""


def test_the_terms_of_a_grant_and_what_lapsed_are_never_changed(database: Database, subtests: pytest.Subtests) -> None:
    for statement in (
        "UPDATE credit_grant SET amount_cents = 1",
        "UPDATE credit_grant SET expires_at = NULL",
        "DELETE FROM credit_grant",
        "TRUNCATE credit_grant CASCADE",
        "UPDATE grant_lapse SET credit_cents = 1",
        "DELETE FROM grant_lapse",
    ):
        with (
            subtests.test(statement),
            pytest.raises(InvariantError, match="is refused"),
            database.transaction() as connection,
        ):
            connection.execute(text(statement))


def test_damage_to_grants_is_found(connection: Connection, subtests: pytest.Subtests) -> None:
    get(connection)
    give(connection, 1000, expires_at=START + 5 * DAY)
    give(connection, 500, priority=99)
    used(connection, team(), 300, at=START + DAY)
    settle_expired(connection, at=START + 5 * DAY)
    at = START + 6 * DAY
    assert verify(connection, at=at).describe() == ""
    connection.execute(text("SET LOCAL session_replication_role = replica"))
    for damage in DAMAGES:
        with subtests.test(damage):
            savepoint = connection.begin_nested()
            changed = connection.execute(text(damage)).rowcount
            verdict = verify(connection, at=at)
            savepoint.rollback()
            assert changed > 0
            assert "grants_are_conserved" in {finding.check for finding in verdict.findings if finding.offenders}
    assert verify(connection, at=at).clean


def test_a_grant_that_expired_and_is_not_settled_is_found(connection: Connection) -> None:
    get(connection)
    give(connection, 1000, expires_at=START + 5 * DAY)
    assert verify(connection, at=START + 5 * DAY - MICROSECOND).clean
    assert "grants_are_conserved: 1 offend" in verify(connection, at=START + 5 * DAY).describe()
    assert verify(connection, at=START + 5 * DAY, grace=MINUTE).clean
