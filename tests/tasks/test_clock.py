"""No task writes anything that takes effect later than now, even if a caller, a host or a sender has another time."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.database_clock import shift_database_clock
from tests.factories import DAY, HOUR, LIMITS, SYSTEM, account_of, call, give, make_id, session_row, team, used, user
from usage_tasks.domain.cycles import add_months
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.cost_center import get_cost_center
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.storage.rows import fetch
from usage_tasks.tasks.usage import accounts, credit, ledger, limits, quarantine, sessions
from usage_tasks.wire.session_reports import AHEAD_MAX

ACCOUNT = user()
OWNER = ACCOUNT
AHEAD = timedelta(minutes=4, seconds=30)

READS = {
    "usage.get_balance": (accounts.get_balance, {}),
    "usage.get_cost_center": (accounts.get_cost_center, {}),
    "usage.check_entitlement": (limits.check_entitlement, {}),
    "usage.list_grants": (credit.list_grants, {}),
    "usage.set_limit_thresholds": (limits.set_limit_thresholds, {"thresholds": [50]}),
}
CASES = [*((name, actor) for name in READS for actor in (OWNER, SYSTEM)), ("usage.set_cost_center", SYSTEM)]


def ask(name: str, at: datetime, actor: str = OWNER) -> Any:
    set_limit = (accounts.set_cost_center, {"billing_strategy": "other"})
    function, arguments = READS.get(name, set_limit)
    return call(function, attribution_id=ACCOUNT, actor=actor, at=at.isoformat(), **arguments)


def open_account(rt: Runtime, at: datetime) -> None:
    with rt.transaction() as connection:
        get_cost_center(connection, account_of(ACCOUNT), limits=LIMITS, at=at, actor=SYSTEM)


def run_sessions(at: datetime, count: int, **fields: Any) -> None:
    rows = [
        session_row(attribution_id=ACCOUNT, workspace_class="xlarge", started_at=at, **fields) for _ in range(count)
    ]
    call(sessions.record_instances, instances=rows, actor=SYSTEM)


def entries(rt: Runtime) -> list[str]:
    with rt.transaction() as connection:
        return [row.kind for row in fetch(connection, "SELECT kind FROM ledger_entry ORDER BY effective_at")]


def versions(rt: Runtime) -> int:
    with rt.transaction() as connection:
        return len(fetch(connection, "SELECT FROM cost_center"))


def future_findings(rt: Runtime) -> int:
    at = rt.now()
    with rt.transaction() as connection:
        findings = verify(connection, at=at).findings
        return next(each.offenders for each in findings if each.check == "nothing_is_of_the_future")


@pytest.mark.holds("clocks.ahead")
@pytest.mark.parametrize(("name", "actor"), CASES)
def test_a_callers_instant_that_is_ahead_ends_no_cycle(real_rt: Runtime, name: str, actor: str) -> None:
    now = real_rt.now()
    open_account(real_rt, add_months(now + AHEAD / 2, -1))
    run_sessions(now - HOUR, 3)
    ask(name, now + AHEAD, actor)
    assert (entries(real_rt), versions(real_rt), future_findings(real_rt)) == ([], 1, 0)


@pytest.mark.holds("clocks.ahead")
@pytest.mark.parametrize(("name", "actor"), CASES)
def test_a_callers_instant_that_is_ahead_burns_no_grant(real_rt: Runtime, name: str, actor: str) -> None:
    now = real_rt.now()
    open_account(real_rt, now - DAY)
    with real_rt.transaction() as connection:
        give(connection, 5000, at=now - DAY, attribution_id=ACCOUNT, expires_at=now + AHEAD / 2)
    run_sessions(now - HOUR, 3)
    ask(name, now + AHEAD, actor)
    assert (entries(real_rt), future_findings(real_rt)) == ([], 0)


@pytest.mark.holds("clocks.ahead")
def test_a_look_ahead_prices_nothing_that_has_not_run(real_rt: Runtime) -> None:
    now = real_rt.now()
    open_account(real_rt, now - DAY)
    run_sessions(now - HOUR, 1)
    ahead, present = ask("usage.get_balance", now + AHEAD), ask("usage.get_balance", real_rt.now())
    assert present["balance_cents"] - ahead["balance_cents"] <= 100
    assert 6000 <= ahead["balance_cents"] < 6000 + 100 * AHEAD / timedelta(minutes=1)


@pytest.mark.holds("clocks.user-past")
@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("back", [600 * DAY, timedelta(days=20_000)])
def test_a_users_instant_of_long_ago_is_refused_and_opens_nothing(real_rt: Runtime, name: str, back: timedelta) -> None:
    with pytest.raises(InvalidInputError, match=r"for a user \(only a service of the platform"):
        ask(name, real_rt.now() - back)
    assert versions(real_rt) == 0


@pytest.mark.holds("clocks.user-past")
@pytest.mark.parametrize("name", ["usage.get_balance", "usage.get_cost_center", "usage.list_grants"])
def test_a_users_look_back_opens_the_account_now(real_rt: Runtime, name: str) -> None:
    before = real_rt.now()
    ask(name, before - 300 * DAY)
    with real_rt.transaction() as connection:
        opened = fetch(connection, "SELECT cycle_started_at FROM cost_center")
    assert [row.cycle_started_at >= before for row in opened] == [True]


@pytest.mark.holds("clocks.user-past")
def test_a_users_look_back_shows_the_balance_of_then(real_rt: Runtime) -> None:
    now = real_rt.now()
    open_account(real_rt, now - 10 * DAY)
    with real_rt.transaction() as connection:
        used(connection, ACCOUNT, 700, at=now - 5 * DAY)
        used(connection, ACCOUNT, 500, at=now - 2 * DAY)
    assert ask("usage.get_balance", now - 3 * DAY)["balance_cents"] == 700
    assert ask("usage.get_balance", now)["balance_cents"] == 1200


@pytest.mark.holds("clocks.service-past")
def test_a_service_opens_an_account_as_of_the_past(real_rt: Runtime) -> None:
    at = add_months(real_rt.now(), -14)
    ask("usage.get_cost_center", at, SYSTEM)
    with real_rt.transaction() as connection:
        assert [row.cycle_started_at for row in fetch(connection, "SELECT cycle_started_at FROM cost_center")] == [at]


@pytest.mark.holds("clocks.user-past")
def test_an_administrator_acts_now(real_rt: Runtime) -> None:
    administrator = f"user:{make_id('administrator')}"
    with real_rt.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO directory_user (user_id, administrator, deleted, observed_at, actor) "
                "VALUES (:id, true, false, now(), 'service:tests')"
            ),
            {"id": make_id("administrator")},
        )
    now = real_rt.now()
    note = {"amount": "5", "description": "sorry", "idempotency_key": "k"}
    with pytest.raises(InvalidInputError, match="only a service of the platform"):
        call(credit.add_credit_note, attribution_id=team(), actor=administrator, at=(now - 9 * DAY).isoformat(), **note)
    made = call(credit.add_credit_note, attribution_id=team(), actor=administrator, at=(now - HOUR).isoformat(), **note)
    assert datetime.fromisoformat(made["effective_at"]) >= now
    rows = [session_row(attribution_id=team("new"), started_at=now - 90 * DAY)]
    call(sessions.record_instances, instances=rows, actor=administrator, at=(now - 30 * DAY).isoformat())
    call(sessions.report_running, source="eu", instances=rows, actor=administrator, at=(now - DAY).isoformat())
    with real_rt.transaction() as connection:
        opened = fetch(connection, "SELECT cycle_started_at FROM cost_center")
    assert [row.cycle_started_at >= now for row in opened] == [True, True]


@pytest.mark.holds("clocks.host-wrong")
@pytest.mark.parametrize("days", [62, -62])
def test_jobs_go_by_the_databases_clock(real_rt: Runtime, days: int) -> None:
    """From the database's view, this host's clock is wrong by `days` days."""
    shift_database_clock(real_rt, -timedelta(days=days))
    open_account(real_rt, real_rt.now() - 20 * DAY - timedelta(days=max(0, -days)))
    assert call(ledger.reset_usage) == {"cycles": 0 if days > 0 else 2}
    call(ledger.reconcile_usage)
    assert future_findings(real_rt) == 0


@pytest.mark.holds("clocks.sender-ahead")
def test_a_senders_clock_that_is_ahead_keeps_no_session_alive(real_rt: Runtime) -> None:
    now = real_rt.now()
    run_sessions(now - HOUR, 1, observed_at=now + 20 * HOUR, source="eu")
    assert AHEAD_MAX > 20 * HOUR
    with real_rt.transaction() as connection:
        held = fetch(connection, "SELECT last_seen_at, source_seen_at, observed_at FROM workspace_instance")
    assert [(row.last_seen_at <= real_rt.now(), row.source_seen_at == row.last_seen_at) for row in held] == [
        (True, True)
    ]
    assert held[0].observed_at == now + 20 * HOUR
    call(sessions.report_running, source="eu", instances=[], actor=SYSTEM, at=real_rt.now().isoformat())
    with real_rt.transaction() as connection:
        ended = fetch(connection, "SELECT ended_at FROM workspace_instance")
    assert [row.ended_at == held[0].last_seen_at for row in ended] == [True]


def test_a_refused_report_that_is_released_proves_life_until_then(real_rt: Runtime) -> None:
    now = real_rt.now()
    row = session_row(workspace_class="gold", started_at=now - HOUR, observed_at=now + 20 * HOUR)
    call(sessions.record_instances, instances=[row], actor=SYSTEM)
    with real_rt.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO price_version (workspace_class, effective_from, credits_per_minute, actor) "
                "VALUES ('gold', '1970-01-01Z', 1, 'service:tests')"
            )
        )
    call(quarantine.release_quarantined, actor=SYSTEM, everything=True, dry_run=False)
    with real_rt.transaction() as connection:
        seen = fetch(connection, "SELECT last_seen_at FROM workspace_instance")
    assert [row.last_seen_at <= real_rt.now() for row in seen] == [True]


@pytest.mark.holds("clocks.stop-to-come")
def test_a_stop_that_is_still_to_come_is_posted_once_it_has_come(real_rt: Runtime) -> None:
    now = real_rt.now()
    run_sessions(now - HOUR, 1, stopped_at=now + HOUR)
    call(ledger.reconcile_usage)
    assert entries(real_rt) == []
    assert 6000 <= ask("usage.get_balance", real_rt.now())["balance_cents"] < 6100
    shift_database_clock(real_rt, 2 * HOUR)
    call(ledger.reconcile_usage)
    assert (entries(real_rt), ask("usage.get_balance", real_rt.now())["balance_cents"]) == (["session"], 12000)
